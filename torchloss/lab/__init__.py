"""The lab: small experiments on real data that compare torchloss with torch.nn and show what a loss does.

data    the data sets, all of them on the machine already
train   (a, b) one model trained side by side, once per library
cost    time and memory of a loss alone
robust  (c) L2, L1 and Huber under outliers
rates   (d) learning rate x batch size under mean and under sum
notes   (e) what study notes say about losses, checked
summary the table, figures, story and report: what the reader sees; demo runs it all
"""
