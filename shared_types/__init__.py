"""The words manager, gateway and client share: msgspec structs and the rules of delivery. No IO, no clock."""

__version__ = "0.1.0"
