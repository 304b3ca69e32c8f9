"""Plain counts that the plans are held against: loops over layers, tokens and matrices, no formula of the package."""

from __future__ import annotations


def parameters(
    *,
    layers,
    hidden,
    heads,
    kv_heads,
    head_dim,
    vocab,
    matrices,
    width,
    tied,
    experts=None,
    latent=None,
    value_dim=None,
):
    """Every matrix of a decoder, one by one. `experts` is (first layer, step, count, width, shared width), `latent`
    (query rank, key-value rank, rotary width, plain width)."""
    value_dim = value_dim or head_dim
    total = vocab * hidden + (0 if tied else vocab * hidden) + hidden
    for layer in range(layers):
        total += 2 * hidden
        if latent is None:
            total += hidden * heads * head_dim + hidden * kv_heads * head_dim + hidden * kv_heads * value_dim
        else:
            query_rank, rank, rotary, plain = latent
            if query_rank:
                total += hidden * query_rank + query_rank * heads * (plain + rotary)
            else:
                total += hidden * heads * (plain + rotary)
            total += hidden * (rank + rotary) + rank * heads * plain + rank * heads * value_dim
        total += heads * value_dim * hidden
        if experts is not None and layer >= experts[0] and (layer + 1) % experts[1] == 0:
            _, _, count, expert_width, shared = experts
            total += hidden * count
            for _ in range(count):
                total += matrices * hidden * expert_width
            total += matrices * hidden * shared
        else:
            total += matrices * hidden * width
    return total


def keys_met(length, window=None, chunk=None):
    """All (query, key) pairs of a causal sequence."""
    pairs = 0
    for position in range(length):
        met = position + 1
        if window is not None:
            met = min(met, window)
        if chunk is not None:
            met = position % chunk + 1
        pairs += met
    return pairs


def attention_flops(length, layers, query_width, value_width):
    """Forward and backward of attention's two products over one sequence; `layers` is [(how many, window, chunk)]."""
    total = 0
    for many, window, chunk in layers:
        for product_width in (query_width, value_width):
            forward = 2 * product_width * keys_met(length, window, chunk)
            total += many * 3 * forward
    return total


def training_bytes(
    *,
    layers,
    hidden,
    query,
    key,
    value,
    matrices,
    width,
    vocab,
    parameters,
    tokens,
    dtype,
    checkpointing,
    chunked,
    loss_chunk=1024,
):
    """(weights, gradients, optimiser, activations, loss) of plain AdamW with a float32 master copy."""
    moments = 4 + 4 + (4 if dtype < 4 else 0)
    saved_norms = 4 * hidden + hidden
    saved_attention = query + key + value + query
    saved_mlp = {3: 4, 2: 2}[matrices] * width
    layer = tokens * dtype * (saved_norms + saved_attention + saved_mlp)
    activations = layers * layer
    if checkpointing:
        activations = layers * tokens * hidden * dtype + layer
    held = min(tokens, loss_chunk) if chunked else tokens
    loss = held * vocab * (dtype + 4 + 4) + (tokens * hidden * dtype if chunked else 0)
    return parameters * dtype, parameters * dtype, parameters * moments, activations, loss
