# SPDX-License-Identifier: Apache-2.0
"""The text format of Prometheus (0.0.4), read as strictly as `promtool check metrics` does: a second opinion on GET /metrics."""
import math
import re

LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? ([0-9.eE+-]+|\+Inf|-Inf|NaN)$')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


class Family:
    def __init__(self, name, doc):
        self.name, self.doc, self.type, self.samples = name, doc, None, []


def labels_of(text):
    found, at = {}, 0
    while text and at < len(text):
        m = LABEL.match(text, at)
        assert m, f"labels {text!r}"
        assert m[1] not in found, f"label {m[1]} twice in {text!r}"
        found[m[1]] = m[2]
        at = m.end()
    return found


def parse(text):
    """Families by name; AssertionError with the line for everything promtool would refuse or lint."""
    assert text.endswith("\n")
    families, current, seen = {}, None, set()
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name, _, doc = line[7:].partition(" ")
            assert name not in families, f"{name} has two heads"
            assert doc, f"{name} has no help"
            current = families[name] = Family(name, doc)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert current and current.name == name and current.type is None and kind in SUFFIXES, line
            current.type = kind
        else:
            m = LINE.match(line)
            assert m and current and current.type, f"no sample: {line!r}"
            suffix = m[1][len(current.name):] if m[1].startswith(current.name) else None
            assert suffix in SUFFIXES[current.type], f"{line!r} below {current.name}"
            labels = labels_of(m[2])
            key = (m[1], tuple(sorted(labels.items())))
            assert key not in seen, f"twice: {line!r}"
            seen.add(key)
            current.samples.append((suffix, labels, float(m[3].replace("Inf", "inf"))))
    for family in families.values():
        lint(family)
    return families


def lint(family):
    name = family.name
    assert (family.type == "counter") == name.endswith("_total"), name
    assert not re.search(r"_(ms|milliseconds|kb|mb|minutes|percent)(_|$)", name), f"{name}: base units only"
    if family.type == "counter":
        assert all(value >= 0 for _, _, value in family.samples), name
    if family.type != "histogram":
        return
    series = {}
    for suffix, labels, value in family.samples:
        rest = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        row = series.setdefault(rest, {"_bucket": [], "_sum": None, "_count": None})
        if suffix == "_bucket":
            row["_bucket"].append((float(labels["le"].replace("Inf", "inf")), value))
        else:
            row[suffix] = value
    for rest, row in series.items():
        bounds, counts = zip(*row["_bucket"])
        assert list(bounds) == sorted(set(bounds)) and bounds[-1] == math.inf, (name, rest)
        assert list(counts) == sorted(counts) and counts[-1] == row["_count"] and row["_sum"] is not None, (name, rest)


def names_in(expression):
    """Metric names of a PromQL expression, and the labels each is selected or grouped by."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    names = {}
    for m in re.finditer(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\}|\[[^\]]*\])?', text):
        word, rest = m[1], m[2] or ""
        if re.match(r"(pared|process)_|up$", word):
            names.setdefault(word, set()).update(re.findall(r"([a-zA-Z_]+)\s*(?:=~|!~|!=|=)", rest))
    groups = set()
    for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", text):
        groups |= {g.strip() for g in group.split(",") if g.strip()}
    return names, groups
