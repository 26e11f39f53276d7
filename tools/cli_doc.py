#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The manual page and the shell completions, made from what the binary says of itself.

    cli_doc.py BINARY man|bash|zsh

`pared --help` lists the commands, `pared COMMAND --help` their options, `pared methods --json` the steps; `make docs` writes
docs/pared.1, docs/completion/pared.bash and docs/completion/_pared, and `make docs-check` compares them."""
import json
import re
import subprocess
import sys

FILES = {"FILE", "DIR", "MODEL", "D", "FILE|PRESET"}  # words of --help that stand for paths


def ask(*args):
    return subprocess.run([binary, *args], capture_output=True, text=True, check=True).stdout.rstrip("\n")


class Option:
    """One option of a command: its names, the word for its value ("" when it takes none), its text."""

    def __init__(self, names, value, text):
        self.names, self.value, self.text = names, value, text

    def words(self):
        """What the value may be, where that is a short list: error|warn|info|debug."""
        return self.value.split("|") if re.fullmatch(r"[a-z0-9-]+(\|[a-z0-9-]+)+", self.value) else []


class Command:
    def __init__(self, name, summary):
        self.name, self.summary, self.help = name, summary, ask(name, "--help")
        self.usage = re.findall(r"^(?:Usage:|      ) (pared %s.*)" % name, self.help, re.M)
        self.actions = sorted({w for w in re.findall(r"^(?:Usage:|      ) pared %s ([a-z]+)\b" % name, self.help, re.M)})
        self.options = self.find_options()

    def find_options(self):
        found, seen = [], set()
        row = re.compile(r"^  (?:(-\w), )?(--[a-z][a-z0-9_-]*)(?: ('[^']*'|[A-Za-z][^\s(]*))?(?:  +(.*)| +([a-z].*))?$")
        for line in self.help.splitlines():
            m = row.match(line)
            if m and m[2] not in seen:
                seen.add(m[2])
                found.append(Option([n for n in (m[1], m[2]) if n], (m[3] or "").strip("'"), (m[4] or m[5] or "").strip()))
        for name, value in re.findall(r"\[(--[a-z-]+)(?: ([A-Z]+))?\]", " ".join(self.usage)):
            if name not in seen:
                seen.add(name)
                found.append(Option([name], value, ""))
        if "--help" not in seen:
            found.append(Option(["--help"], "", "this text"))
        return found


def commands():
    return [Command(*m) for m in re.findall(r"^  ([a-z]+) +(.+)$", ask("--help"), re.M)]


def settings():
    """The settings of `pared serve`, which other commands take too, with their sentence."""
    text = ask("serve", "--help")
    return [(m[0], m[1], m[2] or "", m[3]) for m in re.findall(r"^  --([a-z0-9_]+) (\S+)(?:   \((.*)\))?\n      (.*)$", text, re.M)]


def steps():
    return [row["name"] for row in json.loads(ask("methods", "--json"))]


def presets():
    text = ask("methods")
    block = re.search(r"^[Pp]resets.*?\n((?:  .*\n)+)", text + "\n", re.M)
    return re.findall(r"^  (\S+)", block[1], re.M) if block else []


# ---- the manual page


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.M)


def verbatim(text):
    return ".nf\n" + roff(text) + "\n.fi"


def man():
    every = commands()
    out = [f'.\\" SPDX-License-Identifier: Apache-2.0\n.\\" Made by tools/cli_doc.py from the commands\' --help; do not edit.',
           f'.TH PARED 1 "" "{roff(ask("--version"))}" "User Commands"', ".SH NAME",
           "pared \\- prune, quantize and optimize ONNX models, on the command line and as a service", ".SH SYNOPSIS"]
    for i, c in enumerate(every):
        out += ([".br"] if i else []) + [f".B pared {c.name}", ".RI [ argument ]..."]
    out += [".SH DESCRIPTION",
            roff("pared takes a neural network as an ONNX file, applies a recipe (pruning, quantization, factorization, training, "
                 "rewriting of the graph), and gives back a smaller file that it has verified against the original, with a report. "
                 "`pared run` does it here and now; `pared serve` offers it to others over HTTP, with a queue and a dashboard."),
            ".SH COMMANDS"]
    for c in every:
        out += [f".SS pared {c.name}", roff(c.summary[0].upper() + c.summary[1:]) + "."]
        if c.name == "serve":
            out += [".PP", roff("Settings are flags, environment variables (PARED_ and the name in capitals) or lines `name = value` of the file given "
                                "by --config FILE or PARED_CONFIG; the flag wins, then the environment. They are listed in SETTINGS.")]
        else:
            out += [".PP", verbatim(c.help)]
    out.append(".SH SETTINGS")
    for name, value, preset, text in settings():
        out += [".TP", f"\\fB{roff('--' + name)}\\fR \\fI{roff(value)}\\fR" + (f" ({roff(preset)})" if preset else ""), roff(text)]
    out += [".SH EXIT STATUS"]
    for status, text in (("0", "done"), ("1", "refused or failed: one sentence on stderr says why"), ("2", "wrong usage"),
                         ("3", "done, but a target of the recipe was missed")):
        out += [".TP", f".B {status}", text]
    out += [".SH SIGNALS", "Of", ".BR \"pared serve\" :"]
    for name, text in (("SIGTERM, SIGINT", "Stop: /readyz answers 503, nothing new is taken, running jobs have drain_s seconds to end, then they go back to the queue. "
                        "A second one stops at once."), ("SIGHUP", "Read the settings again; those marked live in docs/CONFIG.md change at once.")):
        out += [".TP", f".B {name}", roff(text)]
    out += [".SH FILES", ".TP", ".I /etc/pared/pared.conf", "settings, where the service of systemd reads them", ".TP", ".I pared\\-data/",
            "default data folder: catalogue, models, datasets, artifacts, work files", ".SH EXAMPLES", ".EX",
            roff("pared run model.onnx --recipe int8 --data train.npz --out out\npared serve --data /var/lib/pared --listen 127.0.0.1:8080\n"
                 "curl -T model.onnx http://127.0.0.1:8080/v1/models?name=model"), ".EE", ".SH SEE ALSO",
            roff("docs/guide.md, docs/operations.md and docs/CONFIG.md of the source; GET /openapi.yaml of a server.")]
    return "\n".join(out) + "\n"


# ---- completion


def kind(command, option):
    """How the value of an option is completed: words, "file", or nothing."""
    if option.names[-1] == "--step":
        return steps()
    if option.names[-1] == "--recipe":
        return presets() + ["file"]
    if option.words():
        return option.words()
    if option.value in FILES or (option.value == "text" and re.search(r"data|file|config|cert|key", option.names[-1])):
        return ["file"]
    return []


def bash():
    every = commands()
    shared = [n for n, *_ in settings()]
    names, values, options = [], [], []
    for c in every:
        names.append(c.name)
        words = [n for o in c.options for n in o.names] + (["--config"] if c.name in ("serve", "healthcheck") else [])
        if c.name == "healthcheck":
            words += ["--" + n for n in shared]
        words += c.actions + (steps() if c.name == "methods" else [])
        options.append(f'        {c.name}) words="{" ".join(dict.fromkeys(words))}" ;;')
        for o in c.options:
            found = kind(c.name, o)
            plain = [w for w in found if w != "file"]
            if o.value:
                do = ' '.join(filter(None, [f'COMPREPLY=($(compgen -W "{" ".join(plain)}" -- "$cur"));' if plain else "",
                                            'compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur"));' if "file" in found else ""]))
                values.append(f'        {"|".join(f"{c.name}:{n}" for n in o.names)}) {do + " " if do else ""}return ;;')
    nl = "\n"
    return f"""# SPDX-License-Identifier: Apache-2.0
# Completion of pared for bash. Made by tools/cli_doc.py; do not edit. Source it, or put it into
# /usr/share/bash-completion/completions/pared.
_pared() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{" ".join(names)} --help --version" -- "$cur"))
        return
    fi
    case ${{COMP_WORDS[1]}}:$prev in
{nl.join(values)}
        serve:--config|healthcheck:--config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case ${{COMP_WORDS[1]}} in
{nl.join(options)}
        *) return ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [ -n "$cur" ] && [ "${{cur#-}}" != "$cur" ] && return
    compopt -o filenames
    COMPREPLY+=($(compgen -f -- "$cur"))
}}
complete -F _pared pared
"""


def quote(text):
    return text.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def zsh():
    every = commands()
    lines = []
    for c in every:
        spec = []
        for o in c.options:
            found, plain = kind(c.name, o), [w for w in kind(c.name, o) if w != "file"]
            action = ""
            if o.value:
                words = f"({' '.join(plain)})"
                what = "{_alternative 'words:word:%s' 'files:file:_files'}" % words.replace("'", "") if plain and "file" in found else \
                    words if plain else "_files" if found else ""
                action = f":{quote(o.value)}:" + what.replace("'", "'\\''")
            for n in o.names:
                spec.append(f"'*{n}[{quote(o.text)}]{action}'")
        if c.name in ("serve", "healthcheck"):
            spec.append("'--config[file of settings]:FILE:_files'")
        spec.append(f"'1:action:({' '.join(c.actions)})'" if c.actions else f"'1:step:({' '.join(steps())})'" if c.name == "methods" else "'*:file:_files'")
        lines.append(f"        {c.name})\n            _arguments -s " + " \\\n                ".join(spec) + "\n            ;;")
    rows = "\n".join(f"        '{c.name}:{quote(c.summary)}'" for c in every)
    nl = "\n"
    return f"""#compdef pared
# SPDX-License-Identifier: Apache-2.0
# Completion of pared for zsh. Made by tools/cli_doc.py; do not edit. Put it into a folder of $fpath.
_pared() {{
    local -a commands
    commands=(
{rows}
    )
    if (( CURRENT == 2 )); then
        _describe command commands
        return
    fi
    shift words
    (( CURRENT-- ))
    case $words[1] in
{nl.join(lines)}
    esac
}}
if [ "$funcstack[1]" = _pared ]; then
    _pared "$@"
elif (( $+functions[compdef] )); then
    compdef _pared pared
fi
"""


binary, what = sys.argv[1:]
sys.stdout.write({"man": man, "bash": bash, "zsh": zsh}[what]())
