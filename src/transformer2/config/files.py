"""config.yaml and its JSON schema, made from the classes."""

import json

import yaml

from transformer2.config.run import Run


def default_yaml() -> str:
    """config.yaml: the default run with the meaning of each key."""
    data = Run().model_dump()
    data["models"] = {name: model.model_dump(exclude_defaults=True) for name, model in Run().models.items()}
    data["methods"] = {name: method.model_dump(exclude_defaults=True) for name, method in Run().methods.items()}
    assert (adaptation := Run().adaptation)
    data["adaptation"] |= {
        "classifier": adaptation.classifier.model_dump(exclude_defaults=True),
        "trained": {name: method.model_dump(exclude_defaults=True) for name, method in adaptation.trained.items()},
    }
    parts = [
        "# yaml-language-server: $schema=workflow/schemas/config.schema.json",
        "# The default run. `python -m transformer2 schema` writes it; edit src/transformer2/config/default.py.",
    ]
    for key, field in Run.model_fields.items():
        flow = None if isinstance(data[key], dict | list) else False
        block = yaml.safe_dump({key: data[key]}, sort_keys=False, default_flow_style=flow, width=110).rstrip()
        said = (field.description or "").splitlines()
        parts += ["", *(f"# {line}" for line in said), block]
    return "\n".join(parts) + "\n"


def json_schema() -> str:
    schema = Run.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"
