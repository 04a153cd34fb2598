"""Write the public address into what a release shows: the package's links, the README on its page, CITATION.cff.

    python .ci/set_address.py https://host/owner/name v0.1.0

The sources name no address, so that a release of any clone names the repository that it was made in. A package
index shows the README alone: its relative links are made absolute, to the files as they are in that release.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

RELATIVE_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^][]*)\]\((?!\w+:|#)(?P<target>[^)\s]+)\)")


def absolute_links(markdown: str, address: str, ref: str) -> str:
    """Return the text with each relative link and image as one to the repository's files at `ref`."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}[{link['text']}]({address}/{kind}/{ref}/{link['target']})"

    return RELATIVE_LINK.sub(absolute, markdown)


def project_urls(address: str, ref: str) -> str:
    """Return the table `project.urls` of pyproject.toml."""
    return (
        "[project.urls]\n"
        f'Source = "{address}"\n'
        f'Documentation = "{address}/tree/{ref}/docs"\n'
        f'Changelog = "{address}/blob/{ref}/CHANGELOG.md"\n'
        f'Issues = "{address}/issues"\n\n'
    )


def set_address(root: Path, address: str, ref: str) -> None:
    """Change README.md, pyproject.toml and CITATION.cff below `root`."""
    readme, pyproject, citation = (root / name for name in ("README.md", "pyproject.toml", "CITATION.cff"))
    if "[project.urls]" in pyproject.read_text():
        raise SystemExit(f"{pyproject}: has an address already ([project.urls])")
    readme.write_text(absolute_links(readme.read_text().replace("ADDRESS", address), address, ref))
    before, scripts, after = pyproject.read_text().partition("[project.scripts]\n")
    pyproject.write_text(before + project_urls(address, ref) + scripts + after)
    citation.write_text(citation.read_text() + f"repository-code: {address}\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    set_address(Path(__file__).resolve().parents[1], sys.argv[1].rstrip("/"), sys.argv[2])
