"""The gRPC server, free of torch. A call passes its rooms from top to bottom; imports point down, too.

- ``process/``: processes that serve, from start to stop.
- ``rpc/``: gRPC services, protobuf messages to values and back.
- ``handlers/``: plain functions behind the calls: admission, store, model, answer.
- ``long_history/``: states of long histories, read, completed, written back.
- ``added_items/``: items that came after training, beside those of a retrieval bundle.
- ``rules/``: how a list is made of ranked items, beyond their scores.
- ``filters/``: which items an answer may have, by their values now.
- ``item_columns/``: these values, in memory that the workers of a server share.
- ``inference/``: models in ONNX Runtime.
- ``telemetry/``: counters, their endpoint, the stages of a request, traces.

Below them ``settings/`` (environment and command line, read once), ``deadline.py``, ``scheduling.py`` (priorities of
threads), ``console.py`` and ``log_ids.py`` (hashes of ids in log lines); below these ``logs.py`` (text or JSON) and
``current_call.py``, the record of the call that is worked for.
"""
