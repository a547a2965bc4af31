"""The checks, by area. In each module, each public function is a check.

A check takes what its parameters name: the started `deployment`, its `runtime`, a `folder` in the sandbox
and an open `session` that begins there, both for this check alone, or `make`, which makes another deployment
that is not started. It returns if all holds. The first line of its docstring says what that is.
"""
