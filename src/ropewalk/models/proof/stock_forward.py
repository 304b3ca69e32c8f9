"""Run by path in a fresh interpreter: stock transformers loads a folder and its logits go to a file. Nothing of ours.

Usage: python -I stock_forward.py JOB.json, where the job names the folder, device, dtype, attention, number of
threads, the inputs (token ids, and positions or null) and the output file. It writes an .npz with the logits of each
input and the frequency buffers of every rotary module, and prints one JSON line about itself.
"""

import json
import sys
import warnings


def main(job_path: str) -> None:
    """Load, run, write; any failure is the caller's to report from the exit code and stderr."""
    warnings.simplefilter("ignore")
    with open(job_path, encoding="utf-8") as stream:
        job = json.load(stream)
    import numpy as np
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"],
        dtype=getattr(torch, job["dtype"]),
        attn_implementation=job["attn"],
        trust_remote_code=job["trust_remote_code"],
        use_safetensors=True,
        local_files_only=True,
    )
    model = model.to(job["device"]).eval()
    found = {}
    for index, each in enumerate(job["inputs"]):
        ids = torch.tensor([each["ids"]], device=job["device"])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        if each["positions"] is not None:
            inputs["position_ids"] = torch.tensor([each["positions"]], device=job["device"])
        with torch.no_grad():
            logits = model(**inputs).logits[0, each["keep"] :]
        found[f"logits_{index}"] = logits.float().cpu().numpy()
    for name, buffer in model.named_buffers():
        if "inv_freq" in name and buffer.dim() == 1:
            found[f"buffer:{name}"] = buffer.float().cpu().numpy()
    np.savez(job["output"], **found)
    loaded = sorted(name for name in sys.modules if name.split(".")[0] == "ropewalk")
    print(
        json.dumps({"foreign": loaded, "transformers": transformers.__version__, "torch": torch.__version__})
    )


if __name__ == "__main__":
    main(sys.argv[1])
