"""`withdraw`: items that no list is to have any more."""

from __future__ import annotations

from typing import Annotated

import typer

from recsys.cli.options import (
    ADDRESS,
    CaOption,
    CertificateOption,
    KeyOption,
    ServerNameOption,
    TlsOption,
    output,
    tls_of,
)
from recsys.cli.requests.shared import (
    AddressOption,
    TextOption,
    TimeoutOption,
    asking,
    item_ids,
)


def withdraw(
    items: Annotated[list[str], typer.Option("--items", help="Ids of the items, comma-separated; may be repeated.")],
    address: AddressOption = ADDRESS,
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_server_name: ServerNameOption = None,
    text_ids: TextOption = False,
    timeout_s: TimeoutOption = 5.0,
) -> None:
    """Withdraw items: no server retrieves them any more within a second, until they are put again."""
    ids = item_ids(items, text_ids)
    secured = tls_of(tls, tls_ca, tls_certificate, tls_key, tls_server_name)
    with asking(address, {}, tls=secured, timeout_s=timeout_s) as client:
        client.withdraw_items(items=ids)
    output.print(f"withdrawn: {len(ids):,} items; PutEntities or `recsys materialize` brings them back")
