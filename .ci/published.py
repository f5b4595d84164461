"""Make a copy of the source fit for the package index: ``python .ci/published.py COPY [URL]``.

There, README.md stands alone, so its links and its picture must lead to the repository at URL (https://HOST/OWNER/NAME),
at the tag of this version; URL also becomes the project's. Without URL, links are text and pictures are left out.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def readme(text: str, url: str | None, version: str) -> str:
    """Return README.md as it can be read alone."""

    def picture(match: re.Match[str]) -> str:
        said, target = match.groups()
        if "://" in target:
            return match[0]
        return "" if url is None else f"![{said}]({url}/raw/v{version}/{target})"

    def link(match: re.Match[str]) -> str:
        said, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        return said if url is None else f"[{said}]({url}/blob/v{version}/{target})"

    return _LINK.sub(link, _PICTURE.sub(picture, text))


def project(text: str, url: str) -> str:
    """Return pyproject.toml with the project's URLs."""
    urls = {"Homepage": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/main/CHANGELOG.md"}
    table = "".join(f'{name} = "{target}"\n' for name, target in urls.items())
    return text.replace("[project.scripts]", f"[project.urls]\n{table}\n[project.scripts]", 1)


def main() -> None:
    """Rewrite the two files of the copy."""
    copy, url = Path(sys.argv[1]), (sys.argv[2].rstrip("/") if len(sys.argv) > 2 and sys.argv[2] else None)
    if url is not None and not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", url):
        sys.exit(f"URL is where the repository is, such as https://HOST/OWNER/NAME, not {url}")
    settings = (copy / "pyproject.toml").read_text()
    version = tomllib.loads(settings)["project"]["version"]
    (copy / "README.md").write_text(readme((copy / "README.md").read_text(), url, version))
    if url is not None:
        (copy / "pyproject.toml").write_text(project(settings, url))
    else:
        print("No URL was given: the README of the package has no picture, and its links are text.")


if __name__ == "__main__":
    main()
