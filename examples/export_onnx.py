"""Export a model to ONNX, and check the export against the model: `mgvmoe export`.

    python examples/export_onnx.py --model runs/demo/model --output_dir runs/demo/onnx

`--help` lists the flags.
"""

from modeling_mgvmoe.cli.export import main

if __name__ == "__main__":
    main()
