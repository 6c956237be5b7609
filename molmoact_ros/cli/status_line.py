"""What a command shows while an operator types: lines that stay, a line of status below them, and a note."""

from __future__ import annotations


class StatusLine:
    """Lines of a terminal that stay, and one below them that is rewritten when it changes."""

    def __init__(self) -> None:
        self._shown = ""

    def print_line(self, line: str) -> None:
        """Print a line that stays; the status is written again below it."""
        print(f"\r\033[K{line}", flush=True)
        self._shown = ""

    def show(self, status: str) -> None:
        """Write the last line, if it has changed."""
        if status != self._shown:
            print(f"\r\033[K{status}", end="", flush=True)
            self._shown = status


class TypedNote:
    """A note that is typed key by key, and ends with Enter. text: what is typed so far; None: none is being typed."""

    def __init__(self) -> None:
        self.text: str | None = None

    def begin(self) -> None:
        """Take the keys that follow as a note."""
        self.text = ""

    def type(self, key: str) -> str:
        """Process a key of a note that was begun; the whole note at its end, else empty."""
        assert self.text is not None
        if key in "\r\n":
            note, self.text = self.text, None
            return note
        self.text = self.text[:-1] if key in "\b\x7f" else self.text + key
        return ""
