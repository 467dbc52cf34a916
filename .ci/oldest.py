"""Prints constraints that pin every dependency to the oldest version that pyproject.toml allows."""

import re
import tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
extras = project["optional-dependencies"]
names = ("models", "studies", "train", "hub", "onnx", "test")
for requirement in [*project["dependencies"], *(r for name in names for r in extras[name])]:
    if match := re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement):
        print("==".join(match.groups()))
