"""The storm machinery: the sync contract as pure code, engines that run drills, and the pure judges' measures."""
