"""MolmoAct2's own protocol, json_numpy over HTTP: a back end that asks such a server, and a server that is one."""
