"""A thousand spoilt configurations: only RopewalkError escapes, and no message carries control characters."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from config_mutations import mutated

from ropewalk import schedule
from ropewalk.errors import RopewalkError
from ropewalk.models.config import parse_json
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.repair import repaired_config
from ropewalk.models.facts import read_facts
from ropewalk.models.inspection import inspect
from ropewalk.models.structure.table import rows
from ropewalk.models.writing.carrier import carry
from ropewalk.runtimes.export import export_config

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.json"))
COUNT = 1000


def configurations():
    shipped = [json.loads(path.read_text()) for path in EXAMPLES]
    return shipped + [{"model_type": name} for name in sorted(rows())], len(shipped)


def handled(step):
    """The result of a step, or None when it refuses in one clean line; anything else escapes."""
    refused = None
    try:
        return step()
    except RopewalkError as error:
        refused = str(error)
    assert refused.isprintable()
    assert len(refused) < 2000
    return None


def everything(config):
    facts = handled(lambda: read_facts(config))
    result = handled(lambda: inspect(config, target="32k"))
    if result is not None:
        json.dumps(result.to_json(), default=str)
        for finding in result.findings:
            assert (finding.message + finding.fix).isprintable()
    handled(lambda: find(config))
    handled(lambda: repaired_config(config))
    if facts is None:
        return False
    for method in ("yarn", "ntk-su"):
        made = handled(lambda method=method: schedule(method, facts.geometry, factor=4.0))
        carried = made and handled(lambda made=made: carry(config, made, target_length=made.target_length))
        if carried:
            json.dumps(carried.config, allow_nan=False)
            assert read_facts(carried.config).geometry == facts.geometry
    handled(lambda: export_config(config, "yarn", factor=8.0))
    return True


@pytest.mark.parametrize("part", range(4))
def test_only_our_errors_escape(part):
    bases, shipped = configurations()
    chance = random.Random(1000 + part)
    parsed = read = 0
    for _ in range(COUNT // 4):
        base = chance.choice(bases[:shipped] if chance.random() < 0.6 else bases)
        config = handled(lambda base=base: parse_json(mutated(base, chance, sorted(rows()))))
        if config is not None:
            parsed += 1
            read += everything(config)
    # The mutations must reach the deep code as well, not only the parser.
    assert parsed > COUNT // 8
    assert read > COUNT // 20
