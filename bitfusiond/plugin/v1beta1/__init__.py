"""Generated from ``proto/bitfusiond/plugin/v1beta1/api.proto`` by ``just proto``."""
