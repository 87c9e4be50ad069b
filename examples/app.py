"""The demo page: a post, its image, marked mentions and any labels in; scores and their explanation out.

    python examples/app.py --model runs/demo/model
    python examples/app.py --model USER/NAME --revision COMMIT --write_space runs/space

The page runs on this machine and calls nothing outside of it. With `--write_space` it is not started but written as a
folder that is a Hub Space: `hf upload USER/SPACE runs/space --repo-type space` puts it there. Needs the extra `app`.
"""

from modeling_mgvmoe.cli.app import main

if __name__ == "__main__":
    main()
