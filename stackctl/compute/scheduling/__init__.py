"""Pure: the scheduler, its filters and weighers, and the policy that a cloud makes of them."""
