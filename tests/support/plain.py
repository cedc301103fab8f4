"""HTTP without TLS: what httpx is given where nobody speaks TLS.

By default each call loads every certificate authority of the world, which takes longer than most
answers, and tests ask again and again while they wait.
"""

from __future__ import annotations

import ssl
from typing import Final

PLAIN: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
