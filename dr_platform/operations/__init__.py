"""The operations database: what must outlive Dagster's own storage.

Here: the connection, the tables and how they come to be. Not here: what is written into them
(``evidence`` and the modules beside this one), or the databases of the platform's services.
"""

from dr_platform.operations.engine import OperationsUnavailable, operations_engine, unavailable_when_down
from dr_platform.operations.schema import upgrade

__all__ = ["OperationsUnavailable", "operations_engine", "unavailable_when_down", "upgrade"]
