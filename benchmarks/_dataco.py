# SPDX-License-Identifier: BSD-3-Clause
"""DataCo's table of orders as arrays, and a made-up table of its form."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from pathlib import Path

import numpy as np

FILE = "DataCoSupplyChainDataset.csv"
DATE = "%m/%d/%Y %H:%M"

Table = dict[str, np.ndarray]
"""Columns of text [N]."""


def read_leak_free(path: Path) -> dict[str, np.ndarray]:
    """Read what is known of an order when it is placed; sorted by the order date."""
    table = _completed(path)
    placed = np.array(_dates(table["order date (DateOrders)"]), dtype="datetime64[m]")
    order = placed.argsort(kind="stable")
    days = (placed - placed.min()) // np.timedelta64(1, "D")
    numbers = [*(table[name].astype(np.float64) for name in _NUMBERS), days.astype(np.float64)]
    categories = [table[name] for name in _CATEGORIES]
    return _arrays(numbers, categories, _delay(table), order, round(0.8 * len(order)), 0.01)


def read_leaky(path: Path) -> dict[str, np.ndarray]:
    """Read what ASSD's authors give their nets; sorted by their index of the shipping date."""
    table = _completed(path)
    shipped = _dates(table["shipping date (DateOrders)"])
    time = np.array([date.day + 31 * date.month + 365 * date.year for date in shipped], dtype=np.float64)
    order = time.argsort(kind="stable")
    numbers = [time, *(table[name].astype(np.float64) for name in _THEIR_NUMBERS if name in table)]
    others = [table[name] for name in table if name not in {*_THEIR_NUMBERS, *_THEIR_DROPPED}]
    categories = [column for column in others if len(np.unique(column)) <= 1000]
    past = len(order) - int(0.2 * len(order))
    return _arrays(numbers, categories, _delay(table), order, past, 0.12345)


def make_up(path: Path, rows: int, seed: int = 0) -> None:
    """Write a table with DataCo's columns, of orders that never were; its delays can be learned in part."""
    rng = np.random.default_rng(seed)
    real, scheduled = rng.integers(1, 7, rows), rng.choice([0, 1, 2, 4], rows)
    placed = np.datetime64("2015-01-01", "s") + np.sort(rng.integers(0, 900, rows)) * np.timedelta64(1, "D")
    table = {name: np.zeros(rows, np.int64) for name in _THEIR_DROPPED}
    table |= {name: rng.gamma(2.0, 50.0, rows).round(2) for name in (*_NUMBERS, *_THEIR_NUMBERS)}
    table |= {name: rng.choice(["A", "B", "C", "D"], rows) for name in _CATEGORIES}
    table |= {
        "Days for shipping (real)": real,
        "Days for shipment (scheduled)": scheduled,
        "Shipping Mode": np.array(["Same Day", "First Class", "Second Class", "", "Standard Class"])[
            scheduled
        ],
        "Late_delivery_risk": (real > scheduled).astype(int),
        "Order Status": rng.choice(["COMPLETE", "PENDING"], rows, p=[0.8, 0.2]),
        "order date (DateOrders)": _texts(placed),
        "shipping date (DateOrders)": _texts(placed + real * np.timedelta64(1, "D")),
    }
    with open(path, "w", encoding="latin-1", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def _texts(dates: np.ndarray) -> np.ndarray:
    return np.array([date.strftime(DATE) for date in dates.tolist()])


def _dates(column: np.ndarray) -> list[datetime]:
    return [datetime.strptime(text, DATE) for text in column.tolist()]


def _completed(path: Path) -> Table:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: download it from https://data.mendeley.com/datasets/8gx2fvg2k6"
        )
    with open(path, encoding="latin-1", newline="") as file:
        reader = csv.reader(file)
        names = next(reader)
        status = names.index("Order Status")
        columns = zip(*(row for row in reader if row[status] == "COMPLETE"), strict=True)
        return {name: np.array(column) for name, column in zip(names, columns, strict=True)}


def _delay(table: Table) -> np.ndarray:
    """Return the class of each order [N]: early, on time, late."""
    real, scheduled = "Days for shipping (real)", "Days for shipment (scheduled)"
    return np.sign(table[real].astype(np.int64) - table[scheduled].astype(np.int64)) + 1


def _chosen(x: np.ndarray, past: int, variance: float) -> np.ndarray:
    """Scale the columns of [N, D] and leave out those of little variance."""
    x = x.astype(np.float64)
    low, high = x[:past].min(axis=0), x[:past].max(axis=0)
    x = (x - low) / np.where(high > low, high - low, 1)
    return x[:, x[:past].var(axis=0) > variance].astype(np.float32)


def _arrays(
    numbers: Sequence[np.ndarray],
    categories: Iterable[np.ndarray],
    y: np.ndarray,
    order: np.ndarray,
    past: int,
    variance: float,
) -> dict[str, np.ndarray]:
    """Sort; scale to [0, 1] and choose columns, both by the first `past` rows; cut there."""
    blocks = chain(
        [np.stack(numbers, axis=1)], (column[:, None] == np.unique(column) for column in categories)
    )
    x = np.concatenate([_chosen(block[order], past, variance) for block in blocks], axis=1)  # [N, D]
    y = y[order]
    return {"x_past": x[:past], "y_past": y[:past], "x_future": x[past:], "y_future": y[past:]}


_NUMBERS = [
    "Benefit per order",
    "Sales per customer",
    "Sales",
    "Order Item Discount",
    "Order Item Discount Rate",
    "Product Price",
    "Order Item Quantity",
    "Order Item Profit Ratio",
]
_CATEGORIES = [
    "Type",
    "Category Name",
    "Customer City",
    "Customer Country",
    "Customer Segment",
    "Customer State",
    "Department Name",
    "Market",
    "Order Country",
    "Order Region",
    "Product Name",
    "Shipping Mode",
]
_THEIR_NUMBERS = [
    "Benefit per order",
    "Sales per customer",
    "Latitude",
    "Longitude",
    "Order Item Total",
    "Order Item Discount",
    "Order Item Product Price",
    "Product Price",
    "Order Item Quantity",
    "Order Item Profit Ratio",
    "Order Profit Per Order",
]
_THEIR_DROPPED = [
    "Days for shipping (real)",
    "Days for shipment (scheduled)",
    "Delivery Status",
    "Order Item Cardprod Id",
    "Order Item Id",
    "Order Id",
]
