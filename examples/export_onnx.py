"""Export a model to ONNX, and check the export against the model.

    python examples/export_onnx.py --model runs/demo/model --output_dir runs/demo/onnx

The folder gets four graphs, `vision.onnx`, `mention.onnx`, `labels.onnx` and `score.onnx`, the configuration and the
processor: what `modeling_mgvmoe.export.onnx_pipeline` needs. It exits with 1 if a logit differs by more than rounding.
"""

from modeling_mgvmoe.cli.export import main

if __name__ == "__main__":
    main()
