"""What each token weighs: of one example, or again and again while a model is trained.

batch, what `eval_step` gave -> Weighed -> lines of a terminal, or a page
"""
