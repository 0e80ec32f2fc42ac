"""What a service does, by its roles. One module per role, loaded only for services that have it."""

from dr_platform.reference_service.roles.duties import Duties, duties_of

__all__ = ["Duties", "duties_of"]
