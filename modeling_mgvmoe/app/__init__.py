"""The demo page: a form for one post, and the explanation of the answer. Needs the extra `app`."""
