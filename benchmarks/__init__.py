"""Programs that print ratios against peers; never run by the tests."""
