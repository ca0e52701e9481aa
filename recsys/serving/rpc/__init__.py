"""gRPC: the services of recsys.v1. Protobuf messages are known here and in the client, nowhere else.

- ``ranker_service.py``, ``related_service.py``, ``store_service.py``: the services, a method a call.
  ``registration.py`` adds them to a server.
- ``admin_service.py``: the status of releases and a reload, on a port of its own.
- ``methods.py``: their methods, from the descriptors.
- ``convert/``: messages to domain values and back; whatever a caller may send is checked there.
- ``answer_counts.py``: calls of Ranker and Related are counted, in all and to their releases.
- ``calls.py``: deadline, errors and event loop of a call. ``statuses.py``: the table from errors to status codes.
- ``streams/``: streams of messages, and the share of them that a caller may keep. ``health.py``: gRPC's health service.
- ``interceptors.py``: work around each call: counting, and whatever is added; ``observation.py``: the outermost one.
- ``bounds.py``: the lengths of what a request holds, before anything looks at it.
- ``access/``: who may call.
- ``early_ends.py``: calls that no handler had. ``door.py``: those that came without the time to be answered.

To add an RPC: its messages and a line of the service in ``protos/recsys/v1``, ``make protos``, a function that does the
work in ``serving/handlers``, a conversion in ``convert/``, a method of the service, a method of the client. It is
counted by its descriptor; name it in docs/operate/monitoring.md, its role in ``access/roles.py``, or it is denied. To
add a service: its proto in ``methods.py``, too, and a line of ``registration.py``. To add an interceptor: a
``grpc.ServerInterceptor``, and an entry of ``interceptors.list_interceptors``. To add a status: a line of
``statuses.STATUS_CODES``.
"""
