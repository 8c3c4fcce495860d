"""Has Helm 4 lint and render what Helm 3 has rendered, and compares the two.

helm4.py CHART VALUES.yaml RENDERED.yaml
"""

import sys

import helm_python as helm
import yaml


def objects(text):
    return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(text) if d}


def main(chart_path, values_path, rendered_path):
    with open(values_path, encoding="utf-8") as file:
        values = yaml.safe_load(file)
    report = helm.lint(chart_path, values, strict=True, namespace="restore", kube_version="v1.31.0")
    wrong = [message for message in report["messages"] if message["severity"] >= 2] + (report["errors"] or [])
    with helm.Chart.load(chart_path) as chart:
        chart.validate_schema(values)
        manifests = chart.render(values, name="demo", namespace="restore")
    four = objects("\n---\n".join(text for name, text in manifests.items() if name.endswith(".yaml")))
    with open(rendered_path, encoding="utf-8") as file:
        three = objects(file.read())
    wrong += [f"{key}: differs between Helm 3 and Helm 4" for key in sorted(three.keys() | four.keys()) if three.get(key) != four.get(key)]
    for problem in wrong:
        print(problem)
    sys.exit(bool(wrong))


main(*sys.argv[1:])
