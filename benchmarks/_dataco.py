# SPDX-License-Identifier: BSD-3-Clause
"""DataCo's table of orders as arrays, and a made-up table of its form."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.feature_selection import VarianceThreshold

if TYPE_CHECKING:
    import pandas as pd

FILE = "DataCoSupplyChainDataset.csv"


def read_leak_free(path: Path) -> dict[str, np.ndarray]:
    """Read what is known of an order when it is placed; sorted by the order date."""
    import pandas as pd

    table = _completed(path)
    placed = _date(table["order date (DateOrders)"])
    order = placed.argsort(kind="stable")
    table, placed = table.iloc[order], placed.iloc[order]
    numbers = table[_NUMBERS].assign(placed=(placed - placed.min()).dt.days)
    categories = pd.get_dummies(table[_CATEGORIES].astype(str))
    return _arrays(numbers, categories, _delay(table), round(0.8 * len(table)), 0.01)


def read_leaky(path: Path) -> dict[str, np.ndarray]:
    """Read what ASSD's authors give their nets; sorted by their index of the shipping date."""
    import pandas as pd

    table = _completed(path)
    shipped = _date(table["shipping date (DateOrders)"]).dt
    table = table.assign(time_idx=shipped.day + 31 * shipped.month + 365 * shipped.year)
    table = table.iloc[table["time_idx"].argsort(kind="stable")]
    numbers = table[[name for name in _THEIR_NUMBERS if name in table]]
    others = table.drop(columns=[*_THEIR_DROPPED, *numbers], errors="ignore")
    few = [name for name in others if others[name].nunique(dropna=False) <= 1000]
    categories = pd.get_dummies(others[few].astype(str))
    past = len(table) - int(0.2 * len(table))
    return _arrays(numbers, categories, _delay(table), past, 0.12345)


def make_up(path: Path, rows: int, seed: int = 0) -> None:
    """Write a table with DataCo's columns, of orders that never were; its delays can be learned in part."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    placed = pd.Timestamp("2015-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 900, rows)), unit="D")
    real, scheduled = rng.integers(1, 7, rows), rng.choice([0, 1, 2, 4], rows)
    columns: dict[str, Any] = dict.fromkeys(_THEIR_DROPPED, 0)
    columns |= {name: rng.gamma(2.0, 50.0, rows).round(2) for name in {*_NUMBERS, *_THEIR_NUMBERS}}
    columns |= {name: _draw(rng, name, 4, rows) for name in _CATEGORIES}
    columns |= {
        "Days for shipping (real)": real,
        "Days for shipment (scheduled)": scheduled,
        "Shipping Mode": np.array(["Same Day", "First Class", "Second Class", "", "Standard Class"])[
            scheduled
        ],
        "Late_delivery_risk": (real > scheduled).astype(int),
        "Order Status": np.where(rng.random(rows) < 0.8, "COMPLETE", "PENDING"),
        "order date (DateOrders)": placed.strftime("%m/%d/%Y %H:%M"),
        "shipping date (DateOrders)": (placed + pd.to_timedelta(real, unit="D")).strftime("%m/%d/%Y %H:%M"),
    }
    del columns["time_idx"]
    pd.DataFrame(columns).to_csv(path, index=False, encoding="latin-1")


def _draw(rng: np.random.Generator, name: str, kinds: int, rows: int) -> np.ndarray:
    return np.char.add(f"{name} ", rng.integers(0, kinds, rows).astype(str))


def _completed(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found: download it from https://data.mendeley.com/datasets/8gx2fvg2k6"
        )
    table = pd.read_csv(path, encoding="latin-1")
    return table[table["Order Status"] == "COMPLETE"]


def _date(column: pd.Series) -> pd.Series:
    import pandas as pd

    return pd.to_datetime(column, format="%m/%d/%Y %H:%M")


def _delay(table: pd.DataFrame) -> np.ndarray:
    """Return the class of each order [N]: early, on time, late."""
    delay = table["Days for shipping (real)"] - table["Days for shipment (scheduled)"]
    return np.sign(delay.to_numpy()) + 1


def _arrays(
    numbers: pd.DataFrame, categories: pd.DataFrame, y: np.ndarray, past: int, variance: float
) -> dict[str, np.ndarray]:
    """Scale to [0, 1] and choose columns, both by the first `past` rows; cut there."""
    x = np.concatenate([table.to_numpy(np.float64) for table in (numbers, categories)], axis=1)  # [N, D]
    low, high = x[:past].min(axis=0), x[:past].max(axis=0)
    x = (x - low) / np.where(high > low, high - low, 1)
    x = VarianceThreshold(variance).fit(x[:past]).transform(x).astype(np.float32)
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
    "time_idx",
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
