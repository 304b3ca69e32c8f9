"""A model from a folder, read for a measurement: what is asked for holds for its tokenizer too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eval_models import save, text_ids, tiny

from ropewalk.errors import RopewalkError
from ropewalk.evaluation.evaluate import evaluate


def test_trusted_code_is_trusted_for_the_tokenizer_too(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tiny(std=0.3))
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSeq2SeqLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "text.txt").write_text(bytes((text_ids(300)[0] % 60 + 32).tolist()).decode())
    asked = {"lengths": [64], "tasks": "ppl", "text": str(tmp_path / "text.txt"), "max_segments": 1}
    assert evaluate(folder, trust_remote_code=True, **asked).lengths == [64]
    with pytest.raises(RopewalkError, match="asks to run code of its own"):
        evaluate(folder, **asked)
