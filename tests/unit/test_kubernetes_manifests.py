"""The Kubernetes manifests fit the schemas that their operators publish."""

from pathlib import Path

import pytest
import yaml

jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "horovodrun_configs" / "kubernetes"
SCHEMAS = ROOT / "../shared/data/kubernetes"
DEFINITIONS = {
    "mpijob": SCHEMAS / "kubeflow.org_mpijobs.yaml",
    "trainjob": SCHEMAS / "trainer.kubeflow.org_trainjobs.yaml",
}
each_manifest = pytest.mark.parametrize("name", DEFINITIONS)


def strict(schema):
    """Returns the schema without room for unknown fields.

    Kubernetes drops fields that a schema does not name, without an error, which is
    just how a misspelt one gets lost.
    """
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: strict(value) for key, value in schema.items()}
    # A field may itself be called "properties" or "type"; only a schema's is a mapping
    # beside a type that is text.
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            copy.setdefault("additionalProperties", False)
    return copy


def problems(name: str, manifest: dict) -> list[str]:
    """Returns where a manifest does not fit its definition."""
    if not DEFINITIONS[name].exists():
        pytest.skip(f"the published schemas are not here: {SCHEMAS}")
    definition = yaml.safe_load(DEFINITIONS[name].read_text())["spec"]
    group, _, version = manifest["apiVersion"].partition("/")
    served = {one["name"]: one for one in definition["versions"] if one["served"]}
    assert (group, manifest["kind"]) == (
        definition["group"],
        definition["names"]["kind"],
    )
    schema = strict(served[version]["schema"]["openAPIV3Schema"])
    # The API server checks these itself; a definition leaves them open.
    schema["properties"]["metadata"] = {"required": ["name"], "type": "object"}
    validator = jsonschema.Draft7Validator(schema)
    return [error.message for error in validator.iter_errors(manifest)]


def load(name: str) -> dict:
    return yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())


def test_every_manifest_is_known():
    assert {path.stem for path in MANIFESTS.iterdir()} == DEFINITIONS.keys()


@each_manifest
def test_it_fits_the_published_schema(name):
    assert problems(name, load(name)) == []


def test_a_misspelt_field_is_found():
    manifest = load("mpijob")
    worker = manifest["spec"]["mpiReplicaSpecs"]["Worker"]
    worker["template"]["spec"]["containers"][0]["comand"] = ["true"]
    worker["replicas"] = "two"
    found = problems("mpijob", manifest)
    assert any("'comand' was unexpected" in problem for problem in found)
    assert any("'two' is not of type 'integer'" in problem for problem in found)


def test_a_missing_field_is_found():
    manifest = load("trainjob")
    del manifest["spec"]["runtimeRef"]["name"]
    manifest["spec"]["trainer"]["numNodes"] = "two"
    assert len(problems("trainjob", manifest)) == 2


def test_ranks_and_slots_agree():
    job, train = load("mpijob")["spec"], load("trainjob")["spec"]["trainer"]
    replicas = job["mpiReplicaSpecs"]
    (launcher,) = replicas["Launcher"]["template"]["spec"]["containers"]
    slots = job["slotsPerWorker"] * replicas["Worker"]["replicas"]
    for ranks, arguments in (
        (slots, launcher["args"]),
        (train["numNodes"] * train["numProcPerNode"], train["args"]),
    ):
        assert arguments[:2] == ["-np", str(ranks)]
