"""The method's claims, measured on one model: training runs, strategies, transfer, composition."""
