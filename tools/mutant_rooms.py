"""Which files `tools/mutants.py` changes, and which tests must notice: a mutant costs those of its part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """Files under `src/ropewalk`, and what is asked whether it notices."""

    files: tuple[str, ...]
    tests: tuple[str, ...]


def _of(folder: str, names: str, tests: str, *, of: str = "") -> Part:
    """`names` under a folder; `tests` under `tests/{of}`, or with their whole path."""
    return Part(
        tuple(f"{folder}/{name}.py" for name in names.split()),
        tuple(f"tests/{of}/{name}.py" if of else name for name in tests.split()),
    )


def _evaluation(names: str, tests: str) -> Part:
    return _of("evaluation", names, tests, of="evaluation")


def _training(names: str, tests: str) -> Part:
    return _of("training", names, tests, of="training")


ROOMS: dict[str, tuple[Part, ...]] = {
    "methods": (
        Part(
            (
                *_of(
                    "methods", "all_pairs bands build llama3 longrope ntk resonance stopped yarn", ""
                ).files,
                "notations.py",
            ),
            ("tests/methods/test_methods_plain.py", "tests/methods/test_methods_notations.py"),
        ),
    ),
    "temperature": (Part(("temperature.py",), ("tests/test_temperature.py",)),),
    "analysis": (_of("analysis", "bounds coverage decay reach", "tests/analysis/test_analysis.py"),),
    "base": (_of("analysis", "base", "tests/analysis/test_base_bound.py"),),
    "planning": (
        Part(
            (
                *_of("planning", "advice cost memory options setups shape variants", "").files,
                "plan.py", "models/quantised.py", "models/feedforward.py",
            ),
            ("tests/planning",),
        ),
    ),
    "evaluation": (
        _evaluation("statistics/choice statistics/intervals statistics/student", "test_eval_statistics"),
        _evaluation(
            "verdict/effective loss/reading loss/controls loss/sliding loss/units",
            "test_eval_loss test_eval_loss_figures test_eval_effective",
        ),
        _evaluation(
            "verdict/ranking verdict/many verdict/worth loss/key_tokens",
            "test_eval_compare_verdict test_eval_compare_figures test_eval_key_tokens test_eval_statistics",
        ),
        _evaluation("retrieval/grid retrieval/scores retrieval/inputs", "test_eval_retrieval test_eval_scores"),
        _evaluation(
            "tasks/biographies tasks/documents tasks/haystack tasks/kv tasks/needle tasks/passkey tasks/values "
            "tasks/qa tasks/reasoning tasks/ruler_niah tasks/ruler_trace tasks/ruler_words tasks/sample",
            "test_eval_task_texts test_eval_task_rules test_eval_tasks test_eval_tasks_harder",
        ),
        _evaluation("served/loss served/plan", "test_eval_served test_eval_served_figures"),
    ),
    "training": (
        _training(
            "data/streams data/mixture data/batches",
            "test_train_streams test_train_data test_train_cache test_train_rows",
        ),
        _training("data/stages", "test_train_stages"),
        _training("step objective model/optimisers", "test_train_step test_train_optimisers"),
        _training("held_out", "test_train_held_out"),
        _training("parts/loss/losses parts/loss/head", "test_train_losses test_train_parts"),
        _training("parts/packing", "test_train_packing"),
        _training("parts/positions parts/borders", "test_train_positions test_train_packing"),
        _training("parts/weighting/weights", "test_train_weighting"),
        _training("parts/tempering", "test_train_tempering"),
        _training("parts/retention/teacher", "test_train_retention"),
        _training("model/initialise", "test_train_initialise"),
        _training("model/lora", "test_train_lora"),
    ),
}  # fmt: skip
# Rooms whose tests need torch.
TORCH = {"planning", "evaluation", "training"}
