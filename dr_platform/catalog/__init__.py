"""The catalog: everything a platform consists of, read once from one folder into frozen values."""

from dr_platform.catalog.catalog import Catalog
from dr_platform.catalog.load import CatalogError, Fault, load_catalog
from dr_platform.catalog.models import (
    Autoscaling,
    ComplianceLevel,
    Contract,
    Database,
    DataClass,
    EmbeddingModel,
    Engine,
    Environment,
    KnowledgeSet,
    Language,
    Release,
    Role,
    SecretCategory,
    Service,
    Slo,
    Strategy,
    Tier,
)

__all__ = [
    "Autoscaling",
    "Catalog",
    "CatalogError",
    "ComplianceLevel",
    "Contract",
    "DataClass",
    "Database",
    "EmbeddingModel",
    "Engine",
    "Environment",
    "Fault",
    "KnowledgeSet",
    "Language",
    "Release",
    "Role",
    "SecretCategory",
    "Service",
    "Slo",
    "Strategy",
    "Tier",
    "load_catalog",
]
