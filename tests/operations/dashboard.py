#!/usr/bin/env python3
"""Asks a live Prometheus every query of the dashboard, as Grafana would, and refuses panels that are empty or not a number.

    tests/operations/dashboard.py DASHBOARD.json --prometheus URL [--seconds 300] [--draw FILE.html]

--draw makes a page of the panels with what was answered, laid out as in the file. It is a rendering of the queries, not a
picture of Grafana. Needs nothing but Python.
"""

import argparse
import html
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

COLOURS = {"green": "#73bf69", "blue": "#5794f2", "orange": "#ff9830", "yellow": "#fade2a", "red": "#f2495c",
           "dark-red": "#c4162a", "semi-dark-red": "#e02f44", "purple": "#b877d9", "text": "#ccccdc"}
PALETTE = ["#73bf69", "#fade2a", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0", "#96d98d", "#ca95e5"]


def ask(url, what, **parameters):
    """The result of an API call; an error of Prometheus' own words."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code not in (400, 422):
            raise
        raise SystemExit(f"{parameters}: {json.load(error)['error']}") from error


def look(path, url, seconds, step):
    """[(panel, [(legend, [(time, value)])])], with the variables at what they are when the dashboard is opened."""
    dashboard = json.loads(path.read_text())
    values = {"datasource": "prometheus", "__rate_interval": f"{max(4 * step, 15)}s", "__interval": f"{step}s"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            values[variable["name"]] = variable.get("allValue") or variable["current"]["value"]
    now, seen = time.time(), []
    for panel in dashboard["panels"]:
        series = []
        for target in panel["targets"]:
            expression = re.sub(r"\$\{?(\w+)\}?", lambda found: values[found[1]], target["expr"])
            answer = ask(url, "query_range", query=expression, start=now - seconds, end=now, step=step)
            if not answer:
                series.append((f"nothing for {expression}", []))
            for one in answer:
                legend = re.sub(r"\{\{(\w+)\}\}", lambda found, one=one: one["metric"].get(found[1], ""),
                                target["legendFormat"])
                series.append((legend, [(float(at), float(value)) for at, value in one["values"]]))
        seen.append((panel, series))
    return seen


def refuse(seen):
    """Ends the program if a panel shows nothing, or something that is no number."""
    problems = []
    for panel, series in seen:
        for legend, samples in series:
            if not samples:
                problems.append(f"{panel['title']}: {legend}")
            elif not all(math.isfinite(value) for _, value in samples):
                problems.append(f"{panel['title']}: {legend} is not a number")
    if problems:
        raise SystemExit("\n".join(problems))
    print(f"   {len(seen)} panels, {sum(len(series) for _, series in seen)} series, none empty and none NaN", flush=True)


def written(value, unit):
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return "0 s"
    for size, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if unit == "bytes" and abs(value) >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g}" + {"reqps": "/s", "ops": "/s"}.get(unit, "")


def mapped(value, defaults):
    """The text and the colour of a stat."""
    text, colour = written(value, defaults["unit"]), "blue"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    for mapping in defaults.get("mappings", []):
        options = mapping["options"]
        if mapping["type"] == "value":
            text = next((to["text"] for of, to in options.items() if float(of) == value), text)
        elif options["from"] <= value <= options["to"]:
            text = options["result"]["text"]
    return text, COLOURS[colour]


def colours(panel, series):
    """Those of the overrides, by the legend; the palette for the others."""
    fixed = {one["matcher"]["options"]: COLOURS[one["properties"][0]["value"]["fixedColor"]]
             for one in panel["fieldConfig"]["overrides"]}
    return [fixed.get(legend, PALETTE[at % len(PALETTE)]) for at, (legend, _) in enumerate(series)]


def graph(panel, series, width, height):
    defaults = panel["fieldConfig"]["defaults"]
    is_stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    begin = min(samples[0][0] for _, samples in series)
    end = max(samples[-1][0] for _, samples in series)
    below, lines = {}, []
    for _, samples in series:
        line = [(at, value + (below.get(at, 0) if is_stacked else 0)) for at, value in samples]
        below.update(line)
        lines.append(line)
    top = max([value for line in lines for _, value in line] + [defaults.get("max") or 0]) or 1
    low = min([value for line in lines for _, value in line] + [0])
    across = lambda at: 52 + (at - begin) / max(end - begin, 1) * (width - 58)
    up = lambda value: 6 + (top - value) / (top - low) * (height - 26)
    drawn = [f'<svg width="{width}" height="{height}">']
    for part in range(4):
        value, at = low + (top - low) * part / 3, begin + (end - begin) * part / 3
        is_crowded = width < 300 and part in (1, 2)
        drawn.append(f'<line x1="52" x2="{width - 6}" y1="{up(value):.1f}" y2="{up(value):.1f}" stroke="#2c3235"/>'
                     f'<text x="48" y="{up(value) + 4:.1f}" text-anchor="end">{written(value, defaults["unit"])}</text>'
                     f'<text x="{min(across(at), width - 26):.1f}" y="{height - 4}" text-anchor="middle">'
                     f'{"" if is_crowded else time.strftime("%H:%M:%S", time.gmtime(at))}</text>')
    # The topmost of a stack is drawn first, so that each shows its own part.
    for line, colour in reversed(list(zip(lines, colours(panel, series)))):
        points = " ".join(f"{across(at):.1f},{up(value):.1f}" for at, value in line)
        if is_stacked:
            drawn.append(f'<polygon fill="{colour}" points="{across(line[0][0]):.1f},{up(low):.1f} {points} '
                         f'{across(line[-1][0]):.1f},{up(low):.1f}"/>')
        drawn.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{points}"/>')
    return "".join(drawn) + "</svg>"


def draw(seen, title, file):
    boxes = []
    for panel, series in seen:
        place = panel["gridPos"]
        width, height = place["w"] * 66 - 8, place["h"] * 38 - 8
        series = [one for one in series if one[1]]
        style = f'left:{place["x"] * 66}px;top:{place["y"] * 38}px;width:{width}px;height:{height}px'
        if panel["type"] == "stat":
            text, colour = mapped(series[0][1][-1][1], panel["fieldConfig"]["defaults"])
            body = f'<p style="background:{colour}">{html.escape(text)}</p>'
        else:
            # What is 0 throughout has a line of its own and no place in the legend.
            shown = [one for one in series if any(value for _, value in one[1])] or series[:1]
            legend = "".join(f'<i><s style="background:{colour}"></s>{html.escape(name)}</i>'
                             for (name, _), colour in zip(series, colours(panel, series))
                             if name in {one[0] for one in shown})
            body = graph(panel, series, width - 8, height - 52) + f"<div>{legend}</div>"
        boxes.append(f'<section style="{style}"><b>{html.escape(panel["title"])}</b>{body}</section>')
    file.write_text(f"""<!doctype html><meta charset="utf-8"><style>
body{{background:#111217;color:#ccccdc;font:12px sans-serif;margin:8px}} section{{position:absolute;background:#181b1f;
border:1px solid #2c3235;overflow:hidden;box-sizing:border-box;padding:0 4px}} b{{display:block;padding:4px}}
main{{position:relative}} text{{fill:#9fa7b3;font-size:10px}} i{{font-style:normal;font-size:11px;margin-right:10px}}
s{{display:inline-block;width:10px;height:3px;margin:0 4px 3px 0}} section div{{height:18px;overflow:hidden}} b{{white-space:nowrap}}
p{{margin:0 -4px;height:100%;text-align:center;font-size:22px;padding-top:18px;color:#111;font-weight:bold}}
</style><h3>{html.escape(title)}</h3><main>{"".join(boxes)}</main>""")


def main():
    import pathlib
    arguments = argparse.ArgumentParser()
    arguments.add_argument("dashboard", type=pathlib.Path)
    arguments.add_argument("--prometheus", required=True)
    arguments.add_argument("--seconds", type=int, default=300)
    arguments.add_argument("--draw", type=pathlib.Path)
    arguments = arguments.parse_args()
    seen = look(arguments.dashboard, arguments.prometheus, arguments.seconds, max(arguments.seconds // 120, 1))
    if arguments.draw:
        draw(seen, "Alipay notify gateway", arguments.draw)
    refuse(seen)


if __name__ == "__main__":
    sys.exit(main())
