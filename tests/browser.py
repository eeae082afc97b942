"""Headless Chromium for tests, driven by Selenium; tests skip where either is absent."""

import json
import pathlib

import pytest

from benchmarks.browser import chromium
from data_pipelines.errors import UserError

PATIENCE = 120
"""Seconds that a page is waited for."""


class Browser:
    """A page in Chromium.

    Args:
        width, height: of the window in pixels.
        options: further ones of Chromium's command line.
    """

    def __init__(self, width: int = 1200, height: int = 1000, options=()):
        """Starts it; skips the test where Chromium, its driver or Selenium is absent."""
        try:
            self.driver = chromium((f"--window-size={width},{height}", *options))
        except UserError as error:
            pytest.skip(str(error))
        self.driver.set_script_timeout(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()

    def open(self, url: str) -> None:
        """Loads a page."""
        self.driver.get(url)

    def run(self, script: str, *arguments):
        """What a script returns in the page."""
        return self.driver.execute_script(script, *arguments)

    def run_async(self, script: str, *arguments):
        """What the promise of an async function's body gives in the page."""
        done = "const done = arguments[arguments.length - 1];"
        return self.driver.execute_async_script(
            f"{done} (async (...given) => {{{script}}})(...arguments).then(done, e => done(`${{e}}`));",
            *arguments,
        )

    def find(self, selector: str):
        """The first element of a CSS selector."""
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector: str) -> list:
        """All elements of a CSS selector."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """What can be read of an element."""
        return self.find(selector).text

    def choose(self, file: pathlib.Path) -> str:
        """Gives the page a picture; what it says in the end, in its status or its line of error."""
        self.find("#file").send_keys(str(file))
        return self.answer()

    def answer(self, busy: str = "…") -> str:
        """The page's status or its line of error, when it is no longer at work."""
        from selenium.webdriver.support.ui import WebDriverWait

        def said(_):
            error, status = self.text("#error"), self.text("#status")
            return error or (status if busy not in status else "")

        return WebDriverWait(self.driver, PATIENCE).until(said)

    def wait(self, condition) -> None:
        """Waits until a function of this object holds."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, PATIENCE).until(lambda _: condition(self))

    def requests(self) -> list[str]:
        """Addresses that the page asked for since this was last called, from Network events."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """What the page's console holds, such as errors and what its policy refused."""
        return [entry["message"] for entry in self._log("browser")]

    def _log(self, kind: str) -> list[dict]:
        return self.driver.get_log(kind)
