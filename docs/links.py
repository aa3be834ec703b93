"""Makes the pages' relative links work on the site as they do on GitHub.

A page may link to any file of the repository, such as ../launch/slurm.sh. If the site has a page of that file, the link
on the site leads to this page. Otherwise the link leads to the file in the repository if pyproject.toml names the
repository's address, and to a copy of the file on the site if not. There are no copies of folders, so without that
address a link to a folder becomes plain text. A link to a file that does not exist stays unresolved, and Sphinx warns
of the link.
"""

import os
import posixpath
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[1]
# Pages that include a file from outside docs/, by the path of that file in the repository.
PAGES = {
    "README.md": "index",
    "benchmarks/README.md": "measurements",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
}


class RepositoryLinks(SphinxTransform):
    """Replaces every MyST link whose target is a file of the repository."""

    default_priority = 5  # so that this class runs before Sphinx collects the files to copy

    def apply(self, **_: object) -> None:
        links = self.document.findall(
            lambda node: isinstance(node, addnodes.pending_xref | addnodes.download_reference)
        )
        for link in list(links):
            if link.get("reftype") == "myst":
                self._replace(link)

    def _replace(self, link: nodes.Element) -> None:
        is_page = link.get("refdomain") == "doc"
        target = f"/{link['reftarget']}.md" if is_page else link["reftarget"].partition("#")[0]
        if not target:
            return
        absolute = self.env.relfn2path(target, self.env.docname)[1]
        path = Path(os.path.relpath(absolute, ROOT)).as_posix()
        page = PAGES.get(path) or posixpath.relpath(path, "docs").removesuffix(".md")
        if page in self.env.found_docs and path.endswith(".md"):
            link["refdomain"], link["reftarget"] = "doc", page
            if page == "index":  # the README's sections are not on this page
                link["reftargetid"] = None
        elif not (ROOT / path).exists() or path.startswith(".."):
            return
        elif url := self.config.repository_url:
            kind = "tree" if (ROOT / path).is_dir() else "blob"
            link.replace_self(nodes.reference("", "", *link.children, refuri=f"{url}/{kind}/main/{path}"))
        elif (ROOT / path).is_dir():
            link.replace_self(link.children)
        elif is_page:
            copied = {"reftarget": target, "refdoc": self.env.docname, "reftype": "myst", "refexplicit": True}
            link.replace_self(addnodes.download_reference("", "", *link.children, refdomain=None, **copied))
