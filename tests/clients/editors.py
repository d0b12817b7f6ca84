"""Editors' own clients of `incoder lsp`: Neovim's inline completion, and Helix's menu in a terminal.

    python3 -m venv venv && venv/bin/pip install -r tests/clients/requirements.txt
    NEOVIM=nvim HELIX=hx venv/bin/python tests/clients/editors.py target/debug/incoder

`cargo xtask test` fetches both editors. One that is not named is skipped.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import pynvim

HOLE = "<infill>"
#: A line to be continued, with characters of two and four bytes before the cursor in one of them.
TEXTS = {
    "plain": f"def area(w, h):\n    return {HOLE}\n\n\nprint(area(2, 3))\n",
    "wide": f"# 漢字 😀\nname = '漢 😀'; print({HOLE}\n\nprint(name)\n",
}
OPTIONS = ["-d", "cpu", "--temp", "0", "--max-tokens", "6"]
#: What a user would write, and where the server's messages are kept.
SETUP = """
local cmd = ...
vim.lsp.handlers['window/logMessage'] = function(_, message)
  vim.g.said = (vim.g.said or '') .. message.message .. '\\n'
end
vim.lsp.config('incoder', { cmd = cmd, root_markers = { '.git' } })
vim.lsp.enable('incoder')
vim.lsp.inline_completion.enable()
vim.keymap.set('i', '<Tab>', function()
  if not vim.lsp.inline_completion.get() then return '<Tab>' end
end, { expr = true })
vim.o.swapfile = false
vim.o.autoindent = false
"""
#: The ghost text that is shown, line by line.
SHOWN = """
local id = vim.api.nvim_get_namespaces()['nvim.lsp.inline_completion']
if not id then return '' end
local shown = {}
for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, id, 0, -1, { details = true })) do
  for _, piece in ipairs(mark[4].virt_text or {}) do table.insert(shown, piece[1]) end
  for _, line in ipairs(mark[4].virt_lines or {}) do
    table.insert(shown, '\\n')
    for _, piece in ipairs(line) do table.insert(shown, piece[1]) end
  end
end
return table.concat(shown)
"""


def wait(what, holds, seconds=60):
    """What `holds` returns once that is true."""
    end = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} was waited for")
        time.sleep(0.002)
    return value


def filled(path, text):
    """What the command writes into the hole."""
    path.write_bytes(text.encode())
    command = [PROGRAM, "infill", "--json", "-q", *OPTIONS, "-f", path]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer["infills"][0]["text"].replace("\r\n", "\n")


class Neovim:
    """A Neovim with a file open and the cursor where the hole was."""

    def __init__(self, folder, text, options=("--alone", *OPTIONS)):
        self.nvim = pynvim.attach("child", argv=[os.environ["NEOVIM"], "--embed", "--headless", "--clean"])
        self.nvim.exec_lua(SETUP, [PROGRAM, "lsp", *options])
        path = folder / "opened.py"
        path.write_bytes(text.replace(HOLE, "").encode())
        before = text[: text.index(HOLE)].replace("\r", "")
        self.nvim.command(f"edit {path}")
        line = before.rsplit("\n", 1)[-1]
        self.nvim.current.window.cursor = (before.count("\n") + 1, len(line.encode()))
        wait("the model", lambda: re.search("is loaded|come from", self.nvim.vars.get("said", "")))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.nvim.command("lua vim.lsp.enable('incoder', false)")
        self.nvim.close()

    def shown(self):
        """The ghost text, or nothing."""
        return self.nvim.exec_lua(SHOWN)

    def ghost(self):
        """The ghost text, once there is some."""
        return wait("ghost text", self.shown)

    def text(self):
        return "\n".join(self.nvim.current.buffer[:]) + "\n"


@unittest.skipUnless(os.environ.get("NEOVIM"), "there is no Neovim 0.12: NEOVIM does not name one")
class InlineCompletion(unittest.TestCase):
    def test_ghost_text_is_what_the_command_writes_and_tab_accepts_it(self):
        cases = {**TEXTS, "crlf": TEXTS["plain"].replace("\n", "\r\n")}
        for name, text in cases.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as folder:
                expected = filled(Path(folder) / "hole.py", text).rstrip()
                self.assertNotEqual(expected, "")
                with Neovim(Path(folder), text) as editor:
                    editor.nvim.input("a" if editor.nvim.current.line.endswith(" ") else "A")
                    self.assertEqual(editor.ghost(), expected)
                    editor.nvim.input("<Tab>")
                    done = text.replace("\r", "").replace(HOLE, expected)
                    wait("the accepted text", lambda: editor.text() == done, 10)

    def test_what_is_typed_along_is_not_asked_for_again(self):
        with tempfile.TemporaryDirectory() as folder, Neovim(Path(folder), TEXTS["plain"]) as editor:
            editor.nvim.input("A")
            first = editor.ghost()
            editor.nvim.input(first[0])
            wait("the shorter text", lambda: editor.shown() == first[1:])


#: What of the line is typed before Helix asks by itself.
TYPED = "wi"
LANGUAGES = """
[language-server.incoder]
command = {program}
args = {args}

[[language]]
name = "python"
language-servers = ["incoder"]
"""


@unittest.skipUnless(os.environ.get("HELIX"), "there is no Helix: HELIX does not name one")
@unittest.skipUnless(shutil.which("tmux"), "there is no tmux, in which Helix would run")
class Menu(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.addCleanup(self.tmux, "kill-server")

    def tmux(self, *args):
        # A server and settings of its own.
        command = ["tmux", "-S", self.folder / "socket", "-f", "/dev/null", *args]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def test_an_item_of_the_menu_is_what_the_command_writes(self):
        text = f"def area(width, height):\n    return {HOLE}\n\n\nprint(area(2, 3))\n"
        expected = filled(self.folder / "hole.py", text.replace(HOLE, TYPED + HOLE)).rstrip()
        self.assertNotEqual(expected, "")
        path = self.folder / "opened.py"
        path.write_text(text.replace(HOLE, ""))
        settings = self.folder / "helix"
        settings.mkdir()
        arguments = json.dumps(["lsp", "--alone", *OPTIONS])
        (settings / "languages.toml").write_text(LANGUAGES.format(program=json.dumps(PROGRAM), args=arguments))
        environment = ["env", f"XDG_CONFIG_HOME={self.folder}", f"XDG_CACHE_HOME={self.folder}", "TERM=screen"]
        self.tmux("new-session", "-d", "-x", "100", "-y", "30", shlex.join([*environment, os.environ["HELIX"], str(path)]))
        wait("the file", lambda: "return" in self.screen())
        self.tmux("send-keys", "j", "A")
        wait("insert mode", lambda: "INS" in self.screen())
        # Before the model is loaded nothing is suggested; then what was typed is typed again.
        label = expected.splitlines()[0]
        # In the menu, below the line of code.
        is_offered = lambda: label in "".join(self.screen().splitlines(keepends=True)[2:])
        self.tmux("send-keys", "-l", TYPED)
        for _ in range(20):
            try:
                wait("the menu", is_offered, 3)
                break
            except AssertionError:
                self.tmux("send-keys", "BSpace")
                self.tmux("send-keys", "-l", TYPED[-1])
        self.tmux("send-keys", "Tab")
        self.tmux("send-keys", "Escape")
        self.tmux("send-keys", "-l", ":write")
        self.tmux("send-keys", "Enter")
        done = text.replace(HOLE, TYPED + expected)
        # While it writes, Helix gives the old file another name.
        wait("the file with the text in it", lambda: path.exists() and path.read_text() == done, 10)

    def screen(self):
        return self.tmux("capture-pane", "-p")


if __name__ == "__main__":
    PROGRAM = sys.argv.pop(1)
    unittest.main()
