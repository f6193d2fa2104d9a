"""State dicts of vision transformers with timm's names and with torchvision's: one from the other.

Both stack queries, keys and values alike, so that names are all that differs.
"""

# (timm's, torchvision's) beginnings of names
_VIT = (
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj.", "conv_proj."),
    ("blocks.", "encoder.layers.encoder_layer_"),
    ("norm.", "encoder.ln."),
    ("head.", "heads.head."),
)
_SWIN = (
    ("patch_embed.proj.", "features.0.0."),
    ("patch_embed.norm.", "features.0.2."),
    *((f"layers.{i}.downsample.", f"features.{2 * i}.") for i in range(1, 4)),
    *((f"layers.{i}.blocks.", f"features.{2 * i + 1}.") for i in range(4)),
    ("head.fc.", "head."),
)

# and parts of the names of what is in a block
_MLP = ((".mlp.fc1.", ".mlp.0."), (".mlp.fc2.", ".mlp.3."))
_BLOCK = (
    (".norm1.", ".ln_1."),
    (".attn.qkv.", ".self_attention.in_proj_"),
    (".attn.proj.", ".self_attention.out_proj."),
    (".norm2.", ".ln_2."),
    *_MLP,
)
_BEFORE_2022 = ((".mlp.linear_1.", ".mlp.0."), (".mlp.linear_2.", ".mlp.3."))  # torchvision's


def vit_to_torchvision(state):
    if _any(state, "patch_embed."):
        return _renamed(state, _VIT, _BLOCK)
    return _renamed(state, (), _BEFORE_2022)


def vit_to_timm(state):
    if _any(state, "conv_proj."):
        return _renamed(vit_to_torchvision(state), _swapped(_VIT), _swapped(_BLOCK))
    return state


def swin_to_torchvision(state):
    """Without the indices of relative positions: timm's are of another shape, or not there."""
    if _any(state, "patch_embed."):
        return _renamed(_without_indices(state), _SWIN, _MLP)
    return state


def swin_to_timm(state):
    """Without the indices of relative positions, which timm doesn't keep."""
    if _any(state, "features."):
        return _renamed(_without_indices(state), _swapped(_SWIN), _swapped(_MLP))
    return state


def _without_indices(state):
    ends = ("relative_position_index", "attn_mask")
    return {name: x for name, x in state.items() if not name.endswith(ends)}


def _any(state, beginning):
    return any(name.startswith(beginning) for name in state)


def _swapped(pairs):
    return tuple((new, old) for old, new in pairs)


def _renamed(state, beginnings, parts):
    return {_rename(name, beginnings, parts): x for name, x in state.items()}


def _rename(name, beginnings, parts):
    for old, new in beginnings:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in parts:
        name = name.replace(old, new)
    return name
