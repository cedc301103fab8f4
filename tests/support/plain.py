"""An SSL context for httpx calls over plain HTTP.

By default each call loads all certificate authorities, which takes longer than most responses, and
tests poll.
"""

from __future__ import annotations

import ssl
from typing import Final

PLAIN: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
