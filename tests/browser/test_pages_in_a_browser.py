"""Pages full of hostile text, opened in Chromium without their content security policy: nothing of the text runs or becomes markup."""

import re
import shutil
import subprocess

import pytest

from tests.report import test_pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUN = "document.documentElement.setAttribute('data-ran','1')"
# Ways into a page: out of text, attributes, scripts, styles, comments, URLs; by parsers that disagree; by templates.
CORPUS = [
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"</title></textarea><script>{RUN}</script>",
    f"--><script>{RUN}</script><!--",
    f"]]><script>{RUN}</script>",
    f'<img src=x onerror="{RUN}">',
    f'"><img src=x onerror="{RUN}">',
    f'\'><img src=x onerror="{RUN}">',
    f'<svg><animate onbegin="{RUN}" attributeName=x dur=1s>',
    f'<svg/onload="{RUN}">',
    f'<details open ontoggle="{RUN}">',
    f'<input autofocus onfocus="{RUN}">',
    f'<video><source onerror="{RUN}">',
    f'<iframe srcdoc="<script>parent.{RUN}</script>">',
    f'<a href="javascript:{RUN}">x</a>',
    f'<math><mtext><table><mglyph><style><img src onerror="{RUN}">',
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>">',
    f"&lt;img src=x onerror={RUN}&gt;",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    f"\u2028;{RUN};//",
    f"');{RUN};('",
    f"`${{{RUN}}}`",
    f'{{{{constructor.constructor("{RUN}")()}}}}',
    f"<base href='javascript:{RUN};//'>",
    f'<form><button formaction="javascript:{RUN}">x',
    f'<object data="javascript:{RUN}">',
    f'<meta http-equiv=refresh content="0;javascript:{RUN}">',
    f"<x onclick={RUN} onpointerenter={RUN} onfocus={RUN} tabindex=1>x",
]
# What a reader does: every control is used, every element pointed at and focused.
USE = """<script>
for (const found of document.querySelectorAll("*")) {
  if (found.tagName === "SCRIPT") continue;
  for (const kind of ["pointerenter", "mouseover", "focus", "toggle"]) found.dispatchEvent(new Event(kind));
}
for (const found of document.querySelectorAll("button, summary, input, select, label, [tabindex]")) found.click();
document.documentElement.setAttribute("data-used", "1");
</script>"""


FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]


def opened(folder, source):
    """Return a page's document once a reader has used all of it, and the attributes of its root."""
    path = folder / "page.html"
    path.write_text(source.replace("</body>", USE + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [CHROMIUM, *FLAGS, "--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    root = re.search(r"<html[^>]*>", done.stdout).group()
    assert "data-used" in root
    return done.stdout, root


@pytest.mark.parametrize("page", test_pages.PAGES)
def test_no_text_of_the_corpus_runs_or_becomes_an_element(page, tmp_path, monkeypatch):
    monkeypatch.setattr(test_pages, "ALL", " ".join(CORPUS))
    source = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", test_pages.PAGES[page](tmp_path / "project"))
    assert "Content-Security-Policy" not in source
    document, root = opened(tmp_path, source)
    assert "data-ran" not in root
    assert not re.findall(r"<(?:iframe|object|base|img|video|math|animate|x)\b", document)


@pytest.mark.parametrize("text", [CORPUS[0], CORPUS[6], CORPUS[12], CORPUS[-1]])
def test_the_same_text_does_run_where_it_is_not_escaped(text, tmp_path):
    assert "data-ran" in opened(tmp_path, f"<!doctype html><html><body>{text}</body></html>")[1]
