#!/usr/bin/env python3
"""Keeps the parameters of helm/README.md true to helm/values.yaml and its comments.

    tests/operations/chart_readme.py           writes the table
    tests/operations/chart_readme.py --check   fails if it would change, or if a value has no comment or no rule

Needs nothing but Python: values.yaml is read line by line, as far as its own style goes (two spaces, block style; a
comment that begins with "-- " is the row of what follows it, with everything below that).
"""

import json
import pathlib
import re
import sys

CHART = pathlib.Path(__file__).resolve().parents[2] / "helm"
BEGIN, END = "<!-- parameters: begin (made by tests/operations/chart_readme.py) -->", "<!-- parameters: end -->"
KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):(?: (.*))?$")


def rows(text):
    """(path, default, description) of each value that has a comment; what has none is an error."""
    found, path, comment, covered, bare = [], [], None, None, []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.strip().startswith("# -- "):
            comment = line.strip()[5:]
            continue
        match = KEY.match(line)
        if not match:
            comment = None if not line.strip() else comment
            continue
        depth = len(match[1]) // 2
        if covered is not None and depth > covered:
            continue
        covered = None
        path = path[:depth] + [match[2]]
        value = match[3] or ""
        if comment is not None:
            default = value
            if not value:
                covered = depth
                default = "see values.yaml"
            found.append((".".join(path), default, comment))
        elif value:
            bare.append(f"values.yaml line {number + 1}: {'.'.join(path)} has no comment")
        comment = None
    return found, bare


def table(found):
    lines = ["| value | default | what it is |", "|---|---|---|"]
    for path, default, description in found:
        default = default if default == "see values.yaml" else f"`{default}`"
        description = description.replace("|", "\\|")
        lines.append(f"| `{path}` | {default} | {description} |")
    return "\n".join(lines)


def without_rule(found, schema):
    """Values that the schema does not know."""
    missing = []
    for path, _, _ in found:
        node = schema
        for part in path.split("."):
            node = node.get("properties", {}).get(part)
            if node is None:
                missing.append(f"values.schema.json has no rule for {path}")
                break
    return missing


def without_row(found, schema, path=()):
    """Rules of the schema for which there is no value."""
    rows_there = {row[0] for row in found}
    missing = []
    for name, rule in schema.get("properties", {}).items():
        here = path + (name,)
        dotted = ".".join(here)
        if dotted in rows_there:
            continue
        if rule.get("properties"):
            missing += without_row(found, rule, here)
        else:
            missing.append(f"values.yaml has no {dotted}, and values.schema.json a rule for it")
    return missing


def keys_of_the_program():
    """The keys of gateway.toml that a value may set: src/config/keys.rs, without what the chart sets itself."""
    text = (CHART.parent / "src/config/keys.rs").read_text()
    keys = set(re.findall(r'^    "([a-z_]+\.[a-z_]+)",$', text, re.M))
    mine = {"http.listen", "admin.listen", "admin.token", "admin.token_file", "amqp.uri", "amqp.uri_file"}
    mine |= {"amqp.ca_file", "amqp.client_certificate_file", "amqp.client_key_file"}
    return keys - mine - {"store.engine", "store.path", "store.uri", "store.uri_file"}


def keys_apart(schema):
    known = schema["properties"]["config"]["properties"]
    here = {f"{section}.{key}" for section, rule in known.items() for key in rule.get("properties", {})}
    there = keys_of_the_program()
    return [f"values.schema.json has no config.{key}, which the program knows" for key in sorted(there - here)] + [
        f"values.schema.json has config.{key}, which the program does not know" for key in sorted(here - there)
    ]


def main():
    schema = json.loads((CHART / "values.schema.json").read_text())
    found, problems = rows((CHART / "values.yaml").read_text())
    problems += without_rule(found, schema) + without_row(found, schema) + keys_apart(schema)
    readme = CHART / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = f"{before}{BEGIN}\n{table(found)}\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        readme.write_text(made)
    elif made != text:
        problems.append("helm/README.md is not what values.yaml says: run tests/operations/chart_readme.py")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
