/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Executes one ring operation, blocking, through the store's wrappers. */
#include <errno.h>

#include "io/ring.h"

static int execute(struct plt_op *op)
{
	switch (op->kind) {
	case PLT_OP_READ:
		return plt_store_readv(op->store, op->off, op->iov, op->niov, op->tag, op->err);
	case PLT_OP_WRITE:
		return plt_store_writev(op->store, op->off, op->iov, op->niov, op->tag, op->err);
	case PLT_OP_ZERO:
		return plt_store_zero(op->store, op->off, op->len, op->flags, op->tag, op->err);
	case PLT_OP_DISCARD:
		return plt_store_discard(op->store, op->off, op->len, op->err);
	case PLT_OP_SYNC:
		return plt_store_sync(op->store, op->err);
	case PLT_OP_CALL:
		return op->call(op);
	}
	return -EINVAL;
}

void plt_op_execute(struct plt_op *op)
{
	op->result = execute(op);
}
