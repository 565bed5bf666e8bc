"""Names that a file can hold: half surrogates (bytes of a header that are no UTF-8, a careless JSON) become `?`.

A name comes from anybody; in the ledger it must neither fail a batch nor be refused as if the store had failed. What
never enters: other changes of a name; texts of exchanges (`Book.write` tames those).
"""

from __future__ import annotations

from msgspec import structs

from gateway.core.ledger.book import whole
from gateway.core.types import Order, RunFacts


def legible_facts(facts: RunFacts) -> RunFacts:
    """The same facts with names that can be written."""
    if "".join(filter(None, structs.astuple(facts))).isascii():
        return facts
    return RunFacts(*[None if text is None else whole(text) for text in structs.astuple(facts)])  # type: ignore[arg-type]  # None stays where it was


def legible_order(order: Order) -> Order:
    """The same order with names that can be written; itself where nothing is to be done."""
    run = legible_facts(order.run)
    names = [charge.account for charge in order.charges]
    if run is order.run and "".join([*names, *order.gates, *order.about[:4]]).isascii():
        return order
    dialect, provider, operation, model, stream = order.about
    return structs.replace(
        order,
        run=run,
        charges=tuple([structs.replace(charge, account=whole(charge.account)) for charge in order.charges]),
        gates=tuple([whole(gate) for gate in order.gates]),
        about=(dialect, provider, operation, whole(model), stream),
    )
