//! Answers in pages: nothing is missing, nothing comes twice, in both directions.

use layout::units::{Space, TabletIndex};
use net::Operation;
use net::client::{ClientError, ScanRange};

use super::{Scene, key};

#[test]
fn scans_page_through_a_range_in_both_directions() {
    let scene = Scene::new(1);
    scene.store.page.set(3);
    scene.run(|client| async move {
        for time in 0..20 {
            client.put(key("s", time * 10), 0, &[time as u8]).await.unwrap();
        }
        client.put(key("t", 50), 0, b"of another stream").await.unwrap();
        for backward in [false, true] {
            let range = ScanRange { from: 25, to: 150, backward, ..ScanRange::all(Space(0), b"s") };
            let mut pages = client.scan(range);
            let mut times = Vec::new();
            while let Some(page) = pages.next().await.unwrap() {
                assert!(page.records.len() <= 3);
                times.extend(page.records.iter().map(|record| record.time));
            }
            assert!(pages.next().await.unwrap().is_none(), "the end stays the end");
            let mut expected: Vec<u64> = (3..=15).map(|n| n * 10).collect();
            if backward {
                expected.reverse();
            }
            assert_eq!(times, expected);
        }
        let turned = ScanRange { from: 9, to: 8, ..ScanRange::all(Space(0), b"s") };
        assert!(client.scan(turned).next().await.unwrap().is_none());
        let mut limited = client.scan(ScanRange { page_records: 2, ..ScanRange::all(Space(0), b"s") });
        assert_eq!(limited.next().await.unwrap().unwrap().records.len(), 2);
    });
}

#[test]
fn a_page_that_goes_on_outside_the_range_or_not_at_all_is_an_error() {
    let scene = Scene::new(4);
    scene.store.page.set(2);
    // Fifteen records at 10, 20, …, 150; a page holds two.
    let wrong = [(false, vec![0, 20, 151, u64::MAX]), (true, vec![u64::MAX, 140, 4, 0])];
    let (store, hold) = (std::rc::Rc::clone(&scene.store), 2);
    scene.run(move |client| async move {
        for time in 1..=15 {
            client.put(key("s", time * 10), 0, b"v").await.unwrap();
        }
        for (backward, resumes) in wrong {
            for resume in resumes {
                store.resumes.replace(vec![resume]);
                let mut pages =
                    client.scan(ScanRange { from: 5, to: 150, backward, ..ScanRange::all(Space(0), b"s") });
                let error = pages.next().await.unwrap_err();
                assert!(
                    matches!(error, ClientError::WrongAnswer { operation: Operation::Scan, .. }),
                    "{error}"
                );
                assert_eq!(
                    pages.next().await.unwrap().unwrap().records.len(),
                    hold,
                    "asked again, it goes on"
                );
            }
        }
        store.resumes.replace(vec![u64::MAX]);
        let error = client.head(Space(0), b"s", 5).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongAnswer { .. }), "{error}");
    });
}

#[test]
fn head_gives_the_newest_even_over_several_pages() {
    let scene = Scene::new(2);
    scene.store.page.set(3);
    scene.run(|client| async move {
        for time in 0..10 {
            client.put(key("s", time), 0, b"v").await.unwrap();
        }
        for (count, expected) in [(0, 0..0), (1, 9..10), (3, 7..10), (8, 2..10), (10, 0..10), (50, 0..10)] {
            let newest = client.head(Space(0), b"s", count).await.unwrap();
            let times: Vec<u64> = newest.iter().map(|record| record.time).collect();
            assert_eq!(times, expected.rev().collect::<Vec<u64>>(), "the newest {count}");
        }
        assert_eq!(client.head(Space(0), b"nobody", 5).await.unwrap(), []);
    });
}

#[test]
fn the_streams_of_all_tablets_are_all_streams() {
    let scene = Scene::new(3);
    scene.store.page.set(2);
    scene.run(|client| async move {
        let mut names: Vec<Vec<u8>> = (0..300).map(|n| format!("stream-{n}").into_bytes()).collect();
        for name in &names {
            let key = layout::key::Key { space: Space(0), stream: name, time: 1 };
            client.put(key, 0, b"v").await.unwrap();
        }
        let mut listed = Vec::new();
        for tablet in TabletIndex::all() {
            let mut pages = client.streams(0, tablet, None).unwrap();
            while let Some(page) = pages.next().await.unwrap() {
                assert!(page.len() <= 2);
                listed.extend(page.into_iter().map(|(_, name)| name));
            }
        }
        listed.sort();
        names.sort();
        assert_eq!(listed, names);
        assert!(client.streams(1, TabletIndex::new(0).unwrap(), None).is_err(), "there is one group");
    });
    assert!(scene.store.asked(Operation::Streams) > 64);
}
