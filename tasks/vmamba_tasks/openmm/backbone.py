"""The backbone of a run as an OpenMMLab config: the same groups as in classification, nothing typed twice."""

from vmamba.config.errors import UserError

STAGES = 4


def backbone_config(cfg) -> dict:
    """``cfg`` (a ``schema.Run``) as the plain fields of ``VMambaBackbone`` or ``TimmBackbone``.

    Raises UserError for a network that has not four stages, or images that have not three channels.
    """
    if cfg.data.in_chans != 3:
        raise UserError(
            f"data.in_chans={cfg.data.in_chans}: det and seg read images of 3 channels; take data.in_chans=3"
        )
    model = cfg.model
    if model.family == "timm":
        drop = {"drop_path_rate": model.drop_path} if model.drop_path else {}
        return {"type": "TimmBackbone", "name": model.name, **drop, **model.kwargs}
    if len(model.depths) != STAGES:
        raise UserError(
            f"model.depths={list(model.depths)}: the heads of det and seg take {STAGES} scales; give {STAGES} stages"
        )
    from vmamba.models.build import network_fields

    fields = network_fields(model, cfg.forward_type, cfg.norm, cfg.scan)
    for name in ("num_classes", "in_chans"):
        fields.pop(name, None)
    return {"type": "VMambaBackbone", "img_size": cfg.data.img_size, **fields}


def channels(cfg) -> list[int]:
    """The channels of the backbone's four outputs."""
    if cfg.model.family != "timm":
        return list(cfg.model.dims)
    import torch

    from vmamba_tasks.openmm.backbones import body

    with torch.device("meta"):
        return body(cfg.model.name, **cfg.model.kwargs)[1]


def preprocessor(cfg) -> dict:
    """Mean and std on the scale of bytes, and red first: what both tasks' preprocessors share."""
    return {
        "mean": [round(255 * m, 3) for m in cfg.data.mean],
        "std": [round(255 * s, 3) for s in cfg.data.std],
        "bgr_to_rgb": True,
    }
