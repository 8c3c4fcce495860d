"""Prints the dashboard's queries as recording rules, for promtool to read: Grafana's variables filled in.

queries.py DASHBOARD.json
"""

import json
import sys

import yaml

VARIABLES = {"$__rate_interval": "5m", "$namespace": ".+", "$job": ".+"}


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    if "$" in query:
        sys.exit(f"a variable that is not known: {query}")
    return query


def main(path):
    with open(path, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    rules = [{"record": f"dashboard:query_{n}", "expr": filled(query)} for n, query in enumerate(queries)]
    yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}, sys.stdout)


main(sys.argv[1])
