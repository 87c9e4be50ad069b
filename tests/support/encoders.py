"""Tiny vision encoders of every family."""

IMAGE_SIZE = 32
VISION_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 29,
    "image_size": IMAGE_SIZE,
    "patch_size": 8,
}
VISION = {
    "vit": VISION_SIZES,
    "dinov2": {name: value for name, value in VISION_SIZES.items() if name != "intermediate_size"},
    "siglip_vision_model": VISION_SIZES,
    "swin": {
        "image_size": IMAGE_SIZE,
        "patch_size": 4,
        "embed_dim": 12,
        "depths": [1, 1],
        "num_heads": [2, 3],
        "window_size": 4,
    },
    "mobilenet_v2": {
        "image_size": IMAGE_SIZE,
        "depth_multiplier": 0.1,
        "min_depth": 8,
        "depth_divisible_by": 8,
        "output_stride": 8,
    },
}
