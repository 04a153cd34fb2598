"""Keep the line numbers in the pages true: `python docs/lines.py` writes them, `--check` says which are not.

A place in the code is written [`Name`, file.py:12](path/file.py#L12): there the class, function or constant Name
begins.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
PLACE = re.compile(r"\[`(?P<name>\w+)`, (?P<file>[\w.]+):\d+\]\((?P<path>[^)#]+)#L\d+\)")


def line_of(name: str, file: Path) -> int:
    """Return the line on which the one definition of this name begins, in Python or C++.

    Raises:
        ValueError: There is none, or more than one.
    """
    definition = re.compile(rf"^ *(class|struct|def) {name}\b(?!;)|^{name}(: .+)? = ")
    lines = [
        number for number, line in enumerate(file.read_text().splitlines(), 1) if definition.search(line)
    ]
    if len(lines) != 1:
        raise ValueError(f"{name} is defined {len(lines)} times in {file}")
    return lines[0]


def renewed(text: str, folder: Path) -> str:
    """Return a page's text with the line numbers that its places have now.

    Args:
        text: The page.
        folder: Where it lies, from which its links lead.

    Raises:
        ValueError: A name is not defined once in the file of its place.
    """

    def place(found: re.Match[str]) -> str:
        name, file, path = found["name"], found["file"], found["path"]
        line = line_of(name, folder / path)
        return f"[`{name}`, {file}:{line}]({path}#L{line})"

    return PLACE.sub(place, text)


def main() -> int:
    """Write the pages whose numbers are not true, or with --check say which."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with 1 where a number is not true"
    )
    check, stale = parser.parse_args().check, False
    for page in PAGES:
        name, text = page.relative_to(ROOT), page.read_text()
        try:
            new = renewed(text, page.parent)
        except (OSError, ValueError) as error:
            parser.error(f"{name}: {error}")
        if new != text:
            stale = True
            print(f"{name}: a line has moved; type python docs/lines.py" if check else f"{name}: written")
            if not check:
                page.write_text(new)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
