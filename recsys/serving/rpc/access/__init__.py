"""Access: who may call which method, and how often.

Off until ``access_file`` is set; from then on all is denied that the file does not allow.

- ``roles.py``: the roles, and the one that each method of each service asks for. A new method is denied until it is
  there.
- ``policy.py``: the access file, strictly read. ``tokens.py``: tokens, and their hashes in the file.
- ``web_tokens.py``: JWT. ``identity.py``: a caller that is known. ``callers.py``: who calls, by token or certificate.
- ``follow.py``: the file as it is now: read again when it changes.
- ``quotas.py``: calls and events per second of each identity. ``usage.py``: what all workers let through of them.
- ``shared.py``: what a supervisor gives its workers.
- ``check.py``: the interceptor, before a call's message is decoded. ``opened.py``: all of it, of a running server.
"""
