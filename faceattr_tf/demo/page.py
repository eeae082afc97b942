"""The page: one HTML file that needs no other, and the rule by which a browser holds it to that."""

import base64
import hashlib
import re
from pathlib import Path

from faceattr_tf.demo.service import Service
from faceattr_tf.reports.page import render

TEMPLATES = Path(__file__).parent / "templates"


def demo_page(service: Service, max_bytes: int) -> tuple[str, str]:
    """The page of a model, and its Content-Security-Policy.

    The policy allows the page's own script and style and nothing else of any address but the
    page's, so that whatever a picture or a name of a label holds can neither run nor call home.

    Args:
        service: gives tasks, thresholds and labels.
        max_bytes: the largest picture that the server takes.
    """
    recipe, crop = service.workdir.recipe(), service.analyzer.crop
    page = render(
        "demo.html.jinja",
        TEMPLATES,
        title=recipe.name or recipe.model.name,
        network=recipe.model.name,
        workdir=str(service.workdir.path),
        notes=_notes(service),
        explained=service.explained,
        unexplained=service.unexplained,
        only_whole=bool(service.cannot_detect),
        settings={
            "tasks": service.tasks,
            "crop": {"height": crop.height, "width": crop.width},
            "max_bytes": max_bytes,
        },
    )
    script, style = (
        " ".join(_digest(text) for text in re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        for tag in ("script", "style")
    )
    policy = {
        "default-src": "'none'",
        "script-src": script,
        "style-src": style,
        "img-src": "blob: data:",
        "media-src": "blob:",
        "connect-src": "'self'",
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
    }
    return page, "; ".join(f"{name} {value}" for name, value in policy.items())


def _notes(service: Service) -> list[str]:
    """What must be known of a model before its answers are believed."""
    analyzer, notes = service.analyzer, []
    if reason := service.cannot_detect:
        notes.append(
            f"{reason}. Only pictures that are one face can be judged, without looking for any."
        )
    left_out = [task.name for task in service.workdir.tasks if task not in analyzer.tasks]
    if left_out:
        notes.append(f"{', '.join(left_out)}: left out, as sensitive.")
    return notes


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
