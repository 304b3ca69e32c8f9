"""An evaluation of a served model: retrieval by generation, and loss where the server gives prompt log-probs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.request import AUTO, EvalRequest
from ropewalk.evaluation.result import Controls, EvalResult, LossRow
from ropewalk.evaluation.retrieval.inputs import asking_of
from ropewalk.evaluation.retrieval.run import Asking, Course
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.retrieval.scores import by_length as retrieval_by_length
from ropewalk.evaluation.served.asking import ServedResult, connect, run_served
from ropewalk.evaluation.served.loss import document_losses, find_way, loss_table
from ropewalk.evaluation.served.server import Server
from ropewalk.evaluation.verdict import words as verdict
from ropewalk.evaluation.work.cells import Cells
from ropewalk.evaluation.work.watch import Watcher
from ropewalk.text.corpus import Document, read_documents


def measure_served(request: EvalRequest, tokenizer: Any | None, cells: Cells, watcher: Watcher) -> EvalResult:
    """Ask the server at `request.model` (a URL). There are no controls: only the deployed model can be asked."""
    if not request.lengths:
        raise UsageError("a server does not tell its window", hint="give --lengths 4k..32k")
    if request.health:
        raise UsageError(
            "health looks inside the model, a server shows only answers", hint="leave out --health"
        )
    # Read before anything is asked: a file that is not there is told at once, one that changed finishes no old run.
    documents = read_documents(request.text)[: request.max_segments] if request.reads_text else []
    asking = asking_of(request, request.lengths)
    hashes = {"text": _hash(documents)} if request.reads_text else {}
    if request.retrieval_tasks:
        hashes["questions"] = _hash((asking.haystack, asking.questions))
    cells.bind_contents(hashes)
    api = {"completion": "completions"}.get(request.style, request.style)
    server = connect(request.model, request.served_model, api=api, timeout_s=request.timeout_s)
    if request.tokenizer is not None and tokenizer is None:
        from ropewalk.models.load import load_tokenizer

        tokenizer = load_tokenizer(request.tokenizer)
    remarks: list[str] = []
    if request.retrieval_tasks and request.scoring not in (AUTO, "teacher-forced", "generation"):
        remarks.append(
            f"a server only writes answers: --scoring {request.scoring} has no effect, generation is scored"
        )
    served = None
    if request.retrieval_tasks:
        served = _retrieval(request, server, asking, tokenizer, cells, watcher)
    loss = _loss(request, server, documents, cells, watcher, remarks) if request.reads_text else []
    rows = [] if served is None else served.rows
    by_size = retrieval_by_length(rows)
    findings = [] if served is None else served.findings
    said = [f"{finding['severity']}: {finding['message']}" for finding in findings]
    return EvalResult(
        model=f"{server.model} at {request.model}",
        protocol=request.protocol,
        original_length=request.original_length,
        lengths=request.lengths,
        loss=loss,
        retrieval=rows,
        retrieval_by_length=by_size,
        served=None if served is None else _about(served),
        verdict=[*said, *verdict.text_verdict(loss, Controls(), None), *verdict.retrieval_verdict(by_size)],
        next=_next(served),
        remarks=remarks,
        request=request.model_copy(update={"hashes": hashes}),
    )


def _hash(content: object) -> str:
    """SHA-256 of texts and rows of questions, which say all of themselves when they are shown."""
    return hashlib.sha256(repr(content).encode("utf-8", "replace")).hexdigest()


def _retrieval(
    request: EvalRequest,
    server: Server,
    asking: Asking,
    tokenizer: Any | None,
    cells: Cells,
    watcher: Watcher,
) -> ServedResult:
    return run_served(
        server,
        asking,
        tokenizer=tokenizer,
        max_tokens=request.max_answer_tokens,
        workers=request.workers,
        course=Course(
            finished=[SampleScore.from_json(row) for row in cells.scores()],
            on_score=lambda score: cells.keep_score(score.to_json()),
            on_tokens=watcher.part("retrieval"),
        ),
    )


def _loss(
    request: EvalRequest,
    server: Server,
    documents: Sequence[Document],
    cells: Cells,
    watcher: Watcher,
    remarks: list[str],
) -> list[LossRow]:
    way = find_way(server)
    if way is None:
        remarks.append("the server gives no log-probabilities of the prompt: loss is not measured")
        return []
    watcher.begin("text")
    kept = cells.document("served-loss")
    losses = kept or document_losses(server, way, documents, max(request.lengths))
    if kept is None:
        cells.keep_document("served-loss", losses)
    rows = loss_table(losses, request.lengths)
    names = set(LossRow.model_fields)
    return [
        LossRow(
            **{"ci": None, "tail_ci": None, "units": row["documents"]}
            | {k: v for k, v in row.items() if k in names}
        )
        for row in rows
    ]


def _about(served: ServedResult) -> dict[str, Any]:
    return {
        "model": served.model,
        "api": served.api,
        "truncates": served.truncates,
        "findings": served.findings,
        "probes": [probe.to_json() for probe in served.probes],
    }


def _next(served: ServedResult | None) -> str:
    if served is not None and served.truncates:
        return "set the server's own context length (ropewalk export names the flag of each), then ask again"
    return "ropewalk eval MODEL --lengths ...   # the same checkpoint here, with the controls that a server cannot give"
